"""The bodies of `POST /v1/messages` and `/v1/messages/count_tokens`, and the chat request they mean."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, StrictBool, StrictInt, StrictStr, model_validator

from llmserve.dialects.anthropic.blocks import AnthropicMessage, Texts, internal_messages, system_text
from llmserve.dialects.anthropic.fields import MESSAGES_POLICY, THINKING_POLICY, TOOL_POLICY
from llmserve.dialects.kinds import only
from llmserve.dialects.translation import chat_request
from llmserve.openai.chat_input import MAX_MESSAGES
from llmserve.openai.fields import Policy
from llmserve.openai.json_schema import SCHEMA_BOUNDS, BoundedSchema
from llmserve.openai.requests import (
    MAX_STOP_CHARACTERS,
    MAX_STOP_STRINGS,
    MAX_TOKENS,
    ChatRequest,
    ModelRequest,
)
from llmserve.openai.schema import Number, Schema, refuse
from llmserve.openai.tokens import TokenizeChatRequest
from llmserve.openai.tools import MAX_DESCRIPTION_CHARACTERS, MAX_TOOLS, ToolName

_ONLY_CUSTOM = only(("custom",), "is not supported: this server runs no tools, so only the type `custom` is")


class Thinking(Schema):
    place: ClassVar[str] = "thinking."
    policy: ClassVar[Policy] = THINKING_POLICY

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] | None = None

    def internal(self) -> dict[str, Any]:
        if self.type == "disabled":
            return {"reasoning_effort": "none"}
        budget = {"thinking_token_budget": self.budget_tokens} if self.budget_tokens is not None else {}
        return {"chat_template_kwargs": {"enable_thinking": True}, **budget}


class OutputFormat(Schema):
    place: ClassVar[str] = "output_config.format."

    type: Literal["json_schema"]
    definition: BoundedSchema = Field(alias="schema")


class OutputConfig(Schema):
    place: ClassVar[str] = "output_config."

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class AnthropicTool(Schema):
    """One of `tools`."""

    place: ClassVar[str] = "tools[]."
    policy: ClassVar[Policy] = TOOL_POLICY

    type: Annotated[Literal["custom"], BeforeValidator(_ONLY_CUSTOM)] = "custom"
    name: ToolName
    description: Annotated[StrictStr, Field(max_length=MAX_DESCRIPTION_CHARACTERS)] | None = None
    input_schema: BoundedSchema
    strict: StrictBool = False

    def internal(self) -> dict[str, Any]:
        function: dict[str, Any] = {"name": self.name, "parameters": self.input_schema}
        if self.description is not None:
            function["description"] = self.description
        if self.strict:
            function["strict"] = True
        return {"type": "function", "function": function}


class AnthropicToolChoice(Schema):
    place: ClassVar[str] = "tool_choice."

    type: Literal["auto", "any", "tool", "none"]
    name: StrictStr | None = None
    disable_parallel_tool_use: StrictBool = False

    @model_validator(mode="after")
    def _check_name_belongs(self) -> Self:
        if self.type == "tool" and self.name is None:
            refuse("is required with the type `tool`", "name")
        if self.type != "tool" and self.name is not None:
            refuse("belongs to the type `tool`", "name")
        return self

    def internal(self) -> dict[str, Any]:
        choice: Any = {"auto": "auto", "any": "required", "none": "none"}.get(self.type)
        if choice is None:
            choice = {"type": "function", "function": {"name": self.name}}
        parallel = {"parallel_tool_calls": False} if self.disable_parallel_tool_use else {}
        return {"tool_choice": choice, **parallel}


class CountTokensRequest(ModelRequest):
    """A body of `POST /v1/messages/count_tokens`."""

    policy: ClassVar[Policy] = MESSAGES_POLICY

    messages: Annotated[tuple[AnthropicMessage, ...], FailFast(), Field(min_length=1, max_length=MAX_MESSAGES)] = Field(
        description=f"The conversation so far: 1 to {MAX_MESSAGES} messages. One of the `assistant` at the end"
        " is gone on with."
    )
    system: Texts = Field(
        default=(), description="The system message: a string, or blocks of text, which are joined with line feeds."
    )
    tools: Annotated[tuple[AnthropicTool, ...], FailFast(), Field(max_length=MAX_TOOLS)] = Field(
        default=(),
        description=f"Up to {MAX_TOOLS} functions the model may call: `name` (1 to 64 letters, digits, underscores, "
        f"dots and dashes), `description`, `input_schema` (a JSON schema, {SCHEMA_BOUNDS}) and `strict`.",
    )
    tool_choice: AnthropicToolChoice | None = Field(
        default=None,
        description="`type` is `auto` (the default), `any`, `tool` (with the `name` of one) or `none`; and "
        "`disable_parallel_tool_use`.",
    )
    thinking: Thinking | None = Field(
        default=None,
        description="`type` is `enabled` (perhaps with `budget_tokens`, after which the model has to answer), "
        "`adaptive` or `disabled`; absent, the model does not think where its template lets it be chosen.",
    )
    output_config: OutputConfig | None = Field(
        default=None,
        description="`effort` (`low` to `max`: how much the model thinks, where its template knows levels) and "
        f"`format` (`json_schema` with a `schema`, {SCHEMA_BOUNDS}).",
    )

    def counted(self) -> TokenizeChatRequest:
        """The request for the tokens of this prompt."""
        return TokenizeChatRequest.of(chat_request(self._prompt()))

    def _prompt(self) -> dict[str, Any]:
        messages = internal_messages(self.messages)
        if system := system_text(self.system):
            messages.insert(0, {"role": "system", "content": system})
        fields: dict[str, Any] = {"model": self.model, "messages": messages}
        last = messages[-1]
        if last["role"] == "assistant" and "tool_calls" not in last:
            last.pop("reasoning_content", None)
            fields["continue_final_message"] = True
        if self.tools:
            fields["tools"] = [tool.internal() for tool in self.tools]
        if self.tool_choice is not None and self.tools:
            fields |= self.tool_choice.internal()
        config = self.output_config or OutputConfig()
        if self.thinking is not None:
            fields |= self.thinking.internal()
        elif config.effort is None:
            fields["reasoning_effort"] = "none"
        if config.effort is not None:
            fields.setdefault("reasoning_effort", config.effort)
        if config.format is not None:
            schema = {"name": "format", "schema": config.format.definition, "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        return fields


class MessagesRequest(CountTokensRequest):
    """A body of `POST /v1/messages`."""

    max_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] = Field(
        description="At most so many tokens are written, at least 1; what the context leaves is a limit anyway."
    )
    stream: StrictBool = Field(default=False, description="Send the answer as server-sent events while it is written.")
    stop_sequences: Annotated[
        tuple[Annotated[StrictStr, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)], ...],
        FailFast(),
        Field(max_length=MAX_STOP_STRINGS),
    ] = Field(
        default=(),
        description=f"Up to {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_CHARACTERS} characters; the answer ends "
        "before the first that occurs, and says which that was.",
    )
    temperature: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None, description="0 to 1; 0 always takes the likeliest token."
    )
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        default=None, description="Above 0, to 1: the likeliest tokens with this much probability are in the draw."
    )
    top_k: Annotated[StrictInt, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="0 to 1000000: so many of the likeliest tokens are in the draw; 0 is all."
    )

    def internal(self) -> ChatRequest:
        """The chat request this is."""
        fields = {**self._prompt(), "max_tokens": self.max_tokens}
        if self.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.stop_sequences:
            fields["stop"] = list(self.stop_sequences)
        for name in ("temperature", "top_p", "top_k"):
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        return chat_request(fields)
