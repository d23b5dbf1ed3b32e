"""The functions a request offers to the model, and whether the answer has to call one of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, StrictBool, StrictStr, ValidationInfo

from llmserve.openai.json_schema import BoundedSchema
from llmserve.openai.schema import IgnoredFields, Schema, refuse

MAX_TOOLS = 128
MAX_TOOLS_BYTES = 512 * 1024
MAX_DESCRIPTION_CHARACTERS = 16 * 1024

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MODES = ("none", "auto", "required")


def _tool_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        refuse("must be 1 to 64 letters, digits, underscores, dots and dashes")
    return name


ToolName = Annotated[StrictStr, Field(json_schema_extra={"pattern": f"^{_NAME.pattern}$"}), AfterValidator(_tool_name)]


class FunctionDefinition(Schema):
    """One function: `parameters` is the JSON schema of its arguments, None for a function without any."""

    place: ClassVar[str] = "tools[].function."

    name: ToolName
    description: Annotated[StrictStr, Field(max_length=MAX_DESCRIPTION_CHARACTERS)] | None = None
    parameters: BoundedSchema | None = None
    strict: StrictBool = False


class FunctionTool(Schema):
    place: ClassVar[str] = "tools[]."

    type: Literal["function"] = "function"
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        """The tool as chat templates expect it, with exactly the fields of the function that the request stated."""
        return {"type": self.type, "function": self.function.model_dump(exclude_unset=True)}


class NamedFunction(Schema):
    name: StrictStr


class NamedTool(Schema):
    """A `tool_choice` that names the function to call."""

    type: Literal["function"] = "function"
    function: NamedFunction


ToolMode = Literal["none", "auto", "required"]


def _bounded_tools(tools: tuple[FunctionTool, ...]) -> tuple[FunctionTool, ...]:
    if sum(len(tool.model_dump_json(exclude_unset=True)) for tool in tools) > MAX_TOOLS_BYTES:
        refuse(f"must be at most {MAX_TOOLS_BYTES // 1024} KiB of JSON in all")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.function.name in names:
            refuse("is the name of another tool too", index, "function", "name")
        names.add(tool.function.name)
    return tools


def _tool_choice(choice: Any, info: ValidationInfo) -> object:
    """A mode, or the named tool; checked by hand, because the errors of a union name no field."""
    if isinstance(choice, NamedTool) or (isinstance(choice, str) and choice in _MODES):
        return choice
    if not isinstance(choice, dict):
        refuse("must be 'none', 'auto', 'required' or an object that names a function")
    kind = choice.get("type")
    if kind != "function":
        refuse("is not supported: only the type `function` is", "type", unsupported=True)
    function = choice.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        refuse("must be an object with the string `name`", "function")
    if isinstance(info.context, IgnoredFields):
        for name in choice.keys() - {"type", "function"}:
            info.context.add("tool_choice.", name)
        for name in function.keys() - {"name"}:
            info.context.add("tool_choice.function.", name)
    return NamedTool(type="function", function=NamedFunction(name=function["name"]))


Tools = Annotated[tuple[FunctionTool, ...], FailFast(), Field(max_length=MAX_TOOLS), AfterValidator(_bounded_tools)]
ToolChoice = Annotated[ToolMode | NamedTool, BeforeValidator(_tool_choice)]
