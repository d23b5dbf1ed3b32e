"""The body of `POST /v1/responses`, and the chat request it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, StrictBool, StrictInt, StrictStr, model_validator

from llmserve.dialects.kinds import only
from llmserve.dialects.responses.fields import REASONING_POLICY, RESPONSES_POLICY, TEXT_POLICY, TOOL_POLICY
from llmserve.dialects.responses.items import MAX_ITEMS, InputItems, internal_messages
from llmserve.dialects.translation import chat_request
from llmserve.openai.chat_input import ReasoningEffort
from llmserve.openai.fields import Policy
from llmserve.openai.json_schema import SCHEMA_BOUNDS, BoundedSchema
from llmserve.openai.metadata import MAX_METADATA, Metadata
from llmserve.openai.requests import MAX_TOKENS, MAX_TOP_LOGPROBS, ChatRequest, ModelRequest
from llmserve.openai.sampling import Sampling
from llmserve.openai.schema import Line, Schema, refuse
from llmserve.openai.tokens import TokenizeChatRequest
from llmserve.openai.tools import MAX_DESCRIPTION_CHARACTERS, MAX_TOOLS, ToolName

_LOGPROBS = "message.output_text.logprobs"
# Asked for by clients that keep nothing here; the thoughts are sent as they are.
_WITHOUT_EFFECT = "reasoning.encrypted_content"
_ONLY_FUNCTION = only(("function",), "is not supported: this server runs no tools, so only the type `function` is")


class TextFormat(Schema):
    place: ClassVar[str] = "text.format."

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[StrictStr, Field(min_length=1, max_length=64)] | None = None
    definition: BoundedSchema | None = Field(default=None, alias="schema")
    strict: StrictBool | None = None
    description: Annotated[StrictStr, Field(max_length=4096)] | None = None

    @model_validator(mode="after")
    def _check_schema_belongs(self) -> Self:
        if self.type == "json_schema":
            for name, field in (("name", self.name), ("schema", self.definition)):
                if field is None:
                    refuse("is required with the type `json_schema`", name)
        elif self.definition is not None:
            refuse("belongs to the type `json_schema`", "schema")
        return self

    def internal(self) -> dict[str, Any]:
        if self.type != "json_schema":
            return {"type": self.type}
        schema = self.model_dump(exclude_none=True, exclude={"type"}, by_alias=True)
        return {"type": "json_schema", "json_schema": schema}


class TextConfig(Schema):
    place: ClassVar[str] = "text."
    policy: ClassVar[Policy] = TEXT_POLICY

    format: TextFormat | None = None


class Reasoning(Schema):
    place: ClassVar[str] = "reasoning."
    policy: ClassVar[Policy] = REASONING_POLICY

    effort: ReasoningEffort | None = None


class ResponsesTool(Schema):
    """One of `tools`."""

    place: ClassVar[str] = "tools[]."
    policy: ClassVar[Policy] = TOOL_POLICY

    type: Annotated[Literal["function"], BeforeValidator(_ONLY_FUNCTION)]
    name: ToolName
    description: Annotated[StrictStr, Field(max_length=MAX_DESCRIPTION_CHARACTERS)] | None = None
    parameters: BoundedSchema | None = None
    strict: StrictBool = False

    def internal(self) -> dict[str, Any]:
        return {"type": "function", "function": self.model_dump(exclude_unset=True, exclude={"type"})}


def _tool_choice(choice: Any) -> object:
    if choice in ("none", "auto", "required"):
        return choice
    if not isinstance(choice, dict):
        refuse("must be 'none', 'auto', 'required' or an object that names a function")
    if choice.get("type") != "function":
        refuse("is not supported: only the type `function` is", "type", unsupported=True)
    if not isinstance(choice.get("name"), str):
        refuse("must be a string", "name")
    return {"type": "function", "name": choice["name"]}


def _included(included: object) -> object:
    if not isinstance(included, list):
        refuse("must be a list")
    for index, name in enumerate(included):
        if name not in (_LOGPROBS, _WITHOUT_EFFECT):
            refuse(f"is not supported: only {_LOGPROBS} is", index, unsupported=True)
    return included


class InputTokensRequest(ModelRequest):
    """A body of `POST /v1/responses/input_tokens`."""

    policy: ClassVar[Policy] = RESPONSES_POLICY

    input: InputItems = Field(
        description=f"A string, or 1 to {MAX_ITEMS} items: messages, calls of functions, their outputs and thoughts."
    )
    instructions: StrictStr | None = Field(
        default=None, description="The system message; that of an earlier response is not taken over."
    )
    previous_response_id: Annotated[Line, Field(max_length=128)] | None = Field(
        default=None, description="A kept response whose conversation goes on."
    )
    text: TextConfig | None = Field(
        default=None,
        description="`format`: `text`, `json_object` or `json_schema` (`name`, `schema`, `strict`, `description`); a "
        f"schema is {SCHEMA_BOUNDS}.",
    )
    reasoning: Reasoning | None = Field(
        default=None,
        description="`effort`: `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`: how much the model "
        "thinks, where its template knows levels; `none` turns thinking off where it can be.",
    )
    tools: Annotated[tuple[ResponsesTool, ...], FailFast(), Field(max_length=MAX_TOOLS)] = Field(
        default=(),
        description=f"Up to {MAX_TOOLS} functions the model may call (`name`, `description`, `parameters`, `strict`, "
        "which is false where it is absent).",
    )
    tool_choice: Annotated[str | dict[str, str], BeforeValidator(_tool_choice)] = Field(
        default="auto",
        description='`none`, `auto`, `required`, or `{"type": "function", "name": NAME}`.',
    )
    parallel_tool_calls: StrictBool = Field(
        default=True, description="Whether the answer may call more than one function."
    )

    def counted(self, items: Iterable[Mapping[str, Any]]) -> TokenizeChatRequest:
        """The request for the prompt's tokens; otherwise as `ResponsesRequest.internal`."""
        return TokenizeChatRequest.of(chat_request(self._prompt(items)))

    def _prompt(self, items: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        messages = internal_messages(items)
        if self.instructions:
            messages.insert(0, {"role": "system", "content": self.instructions})
        fields: dict[str, Any] = {"model": self.model, "messages": messages}
        if self.text is not None and self.text.format is not None:
            fields["response_format"] = self.text.format.internal()
        if self.reasoning is not None and self.reasoning.effort is not None:
            fields["reasoning_effort"] = self.reasoning.effort
        if self.tools:
            fields |= {"tools": [tool.internal() for tool in self.tools], "tool_choice": self._internal_choice()}
            fields["parallel_tool_calls"] = self.parallel_tool_calls
        return fields

    def _internal_choice(self) -> object:
        if isinstance(self.tool_choice, str):
            return self.tool_choice
        return {"type": "function", "function": {"name": self.tool_choice["name"]}}


class ResponsesRequest(Sampling, InputTokensRequest):
    """A body of `POST /v1/responses`."""

    extensions: ClassVar[frozenset[str]] = Sampling.extensions | {
        *("seed", "presence_penalty", "frequency_penalty", "logit_bias"),
    }

    store: StrictBool = Field(
        default=True, description="Keep the response, to be asked for again and gone on with, for a limited time."
    )
    background: StrictBool = Field(
        default=False, description="Answer at once, and go on writing whoever listens. Only with `store`."
    )
    stream: StrictBool = Field(default=False, description="Send the response as server-sent events as it is written.")
    max_output_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] | None = Field(
        default=None,
        description="At most so many tokens are written, at least 1; the response is `incomplete` then.",
    )
    include: Annotated[tuple[str, ...], BeforeValidator(_included)] = Field(
        default=(),
        description=f"`{_LOGPROBS}`: report log probabilities. `{_WITHOUT_EFFECT}` is accepted: thoughts are sent as "
        "they are.",
    )
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        default=None, description=f"0 to {MAX_TOP_LOGPROBS}: so many of the likeliest tokens are reported beside each."
    )
    metadata: Metadata = Field(default={}, description=f"Up to {MAX_METADATA} strings, kept with the response.")

    @model_validator(mode="after")
    def _check_background_is_kept(self) -> Self:
        if self.background and not self.store:
            refuse("needs `store`", "background")
        return self

    @property
    def reports_logprobs(self) -> bool:
        return _LOGPROBS in self.include or bool(self.top_logprobs)

    def internal(self, items: Iterable[Mapping[str, Any]], *, stream: bool) -> ChatRequest:
        """The chat request of a conversation of these `items`, the last of which are this request's own."""
        sampling = self.model_dump(exclude_unset=True, include=set(Sampling.model_fields))
        fields = {**sampling, **self._prompt(items)}
        if stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        if self.max_output_tokens is not None:
            fields["max_tokens"] = self.max_output_tokens
        if self.reports_logprobs:
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        return chat_request(fields)
