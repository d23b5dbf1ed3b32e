"""One message of a conversation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AliasChoices, BeforeValidator, FailFast, Field, StrictStr, ValidationInfo, model_validator

from llmserve.openai.fields import MESSAGE_POLICY, TOOL_CALL_POLICY, Policy
from llmserve.openai.schema import IgnoredFields, Line, Schema, refuse

MAX_TOOL_CALLS = 128

Role = Literal["system", "user", "assistant", "tool"]


class FunctionCall(Schema):
    """Which function a model called. `arguments` is the text it wrote, JSON or not."""

    place: ClassVar[str] = "messages[].tool_calls[].function."

    name: Annotated[Line, Field(max_length=64)]
    arguments: StrictStr


class ToolCall(Schema):
    place: ClassVar[str] = "messages[].tool_calls[]."
    policy: ClassVar[Policy] = TOOL_CALL_POLICY

    id: Annotated[Line, Field(max_length=64)]
    type: Literal["function"] = "function"
    function: FunctionCall


def _role(role: object) -> object:
    # OpenAI's newer name of the same thing; chat templates know the older one.
    return "system" if role == "developer" else role


def _text(content: object, info: ValidationInfo) -> str:
    """The text of a message's content, which is a string or a list of text parts.

    Parts are joined with a line feed, as llama.cpp and vLLM do: clients send a part per block (an attached file, then
    the question), and without it the last word of one block would run into the first of the next.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        refuse("must be a string or a list of text parts")
    if not content:
        refuse("must have at least 1 part")
    return "\n".join(_part_text(part, index, info.context) for index, part in enumerate(content))


def _part_text(part: Any, index: int, ignored: object) -> str:
    if not isinstance(part, dict):
        refuse("must be an object", index)
    kind = part.get("type")
    if not isinstance(kind, str):
        refuse("must be a string", index, "type")
    if kind != "text":
        refuse("is not supported: only parts of type `text` are", index, unsupported=True)
    text = part.get("text")
    if not isinstance(text, str):
        refuse("must be a string", index, "text")
    for name, value in part.items():
        if name in {"type", "text"} or value is None:
            continue
        if isinstance(ignored, IgnoredFields):
            ignored.add("messages[].content[].", name)
        else:
            refuse("is not a known field", index, name)
    return text


class Message(Schema):
    """A message; `content` is always plain text, and None only where an assistant called tools instead of writing."""

    place: ClassVar[str] = "messages[]."
    policy: ClassVar[Policy] = MESSAGE_POLICY
    extensions: ClassVar[frozenset[str]] = frozenset({"reasoning_content"})

    role: Annotated[Role, BeforeValidator(_role)] = Field(
        description="`system`, `developer` (the same), `user`, `assistant` or `tool`."
    )
    content: Annotated[str, BeforeValidator(_text)] | None = Field(
        default=None,
        description="A string, or a list of text parts, which are joined with line feeds; other parts are refused. "
        "May be absent only beside `tool_calls`.",
    )
    name: Annotated[Line, Field(max_length=64)] | None = Field(
        default=None, description="Who speaks, to tell speakers of one role apart: 1 to 64 characters."
    )
    reasoning_content: StrictStr | None = Field(
        default=None,
        validation_alias=AliasChoices("reasoning_content", "reasoning"),
        description="Of an `assistant`: what it thought before it answered; the model's template decides what becomes "
        "of it. Both names mean the same and must agree.",
    )
    tool_calls: Annotated[tuple[ToolCall, ...], FailFast(), Field(max_length=MAX_TOOL_CALLS)] = Field(
        default=(), description=f"Of an `assistant`: up to {MAX_TOOL_CALLS} function calls it made earlier."
    )
    tool_call_id: Annotated[Line, Field(max_length=64)] | None = Field(
        default=None, description="Of a `tool`, and required there: the call that this message answers."
    )

    @model_validator(mode="after")
    def _check_parts_of_role(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            refuse("belongs to a message of the role `assistant`", "tool_calls")
        if self.reasoning_content is not None and self.role != "assistant":
            refuse("belongs to a message of the role `assistant`", "reasoning_content")
        if self.role == "tool" and self.tool_call_id is None:
            refuse("is required in a message of the role `tool`", "tool_call_id")
        if self.role != "tool" and self.tool_call_id is not None:
            refuse("belongs to a message of the role `tool`", "tool_call_id")
        if self.content is None and not self.tool_calls:
            refuse("is required", "content")
        return self
