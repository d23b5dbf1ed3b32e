"""What the prompt of a chat is made of, whether an answer is wanted or only its tokens."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import FailFast, Field, StrictBool, model_validator

from llmserve.openai.json_schema import SCHEMA_BOUNDS
from llmserve.openai.messages import Message
from llmserve.openai.schema import Schema, refuse
from llmserve.openai.template import (
    MAX_ARGUMENT_CHARACTERS,
    MAX_ARGUMENTS,
    MAX_DOCUMENTS,
    Documents,
    TemplateArguments,
)
from llmserve.openai.tools import MAX_TOOLS, MAX_TOOLS_BYTES, FunctionTool, NamedTool, ToolChoice, Tools

MAX_MESSAGES = 4096

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatInput(Schema):
    """The fields of a request on which a chat's prompt depends."""

    extensions: ClassVar[frozenset[str]] = frozenset(
        {"chat_template_kwargs", "documents", "add_generation_prompt", "continue_final_message"}
    )

    messages: Annotated[tuple[Message, ...], FailFast(), Field(min_length=1, max_length=MAX_MESSAGES)] = Field(
        description=f"The conversation so far: 1 to {MAX_MESSAGES} messages."
    )
    tools: Tools = Field(
        default=(),
        description=f"Up to {MAX_TOOLS} functions the model may call, {MAX_TOOLS_BYTES // 1024} KiB in all, each with "
        "a `name` of its own (1 to 64 letters, digits, underscores, dots and dashes), `description`, `parameters` "
        f"(a JSON schema, {SCHEMA_BOUNDS}) and `strict`.",
    )
    tool_choice: ToolChoice | None = Field(
        default=None,
        description='`none`, `auto` (the default), `required`, or `{"type": "function", "function": {"name": NAME}}`; '
        "the last two only with `tools`, of which NAME is one.",
    )
    reasoning_effort: ReasoningEffort | None = Field(
        default=None,
        description="`none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`: how much the model thinks, where "
        "its template knows levels; `none` turns thinking off where it can be.",
    )
    chat_template_kwargs: TemplateArguments = Field(
        default={},
        description=f"Up to {MAX_ARGUMENTS} names and plain values for the model's chat template, such as "
        f"`enable_thinking`: true, false, numbers and strings of up to {MAX_ARGUMENT_CHARACTERS} characters. Names "
        "that the server or the template language defines are refused.",
    )
    documents: Documents = Field(
        default=(),
        description=f"Up to {MAX_DOCUMENTS} texts (`text`, `title`) as the model's template shows them, or "
        "in the system message where it does not.",
    )
    add_generation_prompt: StrictBool | None = Field(
        default=None,
        description="Whether the prompt ends with the start of a new answer. The opposite of "
        "`continue_final_message`, and need not be stated.",
    )
    continue_final_message: StrictBool = Field(
        default=False,
        description="Go on with the last message, which must be an `assistant`'s with text and without `tool_calls`.",
    )

    @property
    def offered_tools(self) -> tuple[FunctionTool, ...]:
        """The tools of which the model is told."""
        return self.tools if self.tool_choice != "none" else ()

    @property
    def demanded_tools(self) -> tuple[FunctionTool, ...]:
        """The tools of which the answer must call one; empty where it may be text."""
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            return tuple(tool for tool in self.tools if tool.function.name == name)
        return self.tools if self.tool_choice == "required" else ()

    @model_validator(mode="after")
    def _check_tool_choice(self) -> Self:
        if self.tool_choice in (None, "none", "auto"):
            return self
        if not self.tools:
            refuse("is only allowed with `tools`", "tool_choice")
        if not self.demanded_tools:
            refuse("is not among `tools`", "tool_choice", "function", "name")
        return self

    @model_validator(mode="after")
    def _check_the_final_message_can_be_continued(self) -> Self:
        if not self.continue_final_message:
            return self
        if self.add_generation_prompt:
            refuse("cannot be combined with `add_generation_prompt`", "continue_final_message")
        last = self.messages[-1]
        if last.role != "assistant" or last.content is None or last.tool_calls:
            refuse("needs a last message of an `assistant`, with text and without calls", "continue_final_message")
        return self
