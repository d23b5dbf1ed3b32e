"""The requests this server honours: closed, bounded, and the same after a round trip through their canonical form.

A field's description is its row in `docs/api.md`. None (or an empty tuple) means that the request did not state it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AliasChoices, BeforeValidator, Field, StrictBool, StrictInt, StrictStr, model_validator

from llmserve.openai.chat_input import ChatInput
from llmserve.openai.fields import CHAT_POLICY, COMPLETION_POLICY, STREAM_OPTIONS_POLICY, Policy
from llmserve.openai.json_schema import SCHEMA_BOUNDS
from llmserve.openai.prompts import Prompts, prompts
from llmserve.openai.response_format import ResponseFormat
from llmserve.openai.sampling import Sampling
from llmserve.openai.schema import Line, Schema, refuse
from llmserve.openai.structured_outputs import (
    MAX_ALTERNATIVES,
    MAX_GRAMMAR_BYTES,
    MAX_REGEX_CHARACTERS,
    StructuredOutputs,
)

MAX_PROMPTS = 64
MAX_CHOICES = 8
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1024
MAX_TOP_LOGPROBS = 20
MAX_TOKENS = 2**31 - 1


class ModelRequest(Schema):
    """What every request has: the model it is for."""

    model: Annotated[Line, Field(max_length=512)] = Field(
        description="Name of the model: 1 to 512 characters, no control characters."
    )

    def canonical(self) -> bytes:
        """The request as compact JSON of exactly the known fields it states; parsing that gives an equal request."""
        return self.model_dump_json(exclude_unset=True, by_alias=True).encode()


class StreamOptions(Schema):
    place: ClassVar[str] = "stream_options."
    policy: ClassVar[Policy] = STREAM_OPTIONS_POLICY

    include_usage: StrictBool = False


def stop_strings(stop: object) -> tuple[str, ...]:
    """A validator of stop strings: one string or a list of them."""
    strings = [stop] if isinstance(stop, str) else stop
    if not isinstance(strings, list) or not all(isinstance(item, str) for item in strings):
        refuse("must be a string or a list of strings")
    if len(strings) > MAX_STOP_STRINGS:
        refuse(f"must have at most {MAX_STOP_STRINGS} strings")
    if not all(1 <= len(item) <= MAX_STOP_CHARACTERS for item in strings):
        refuse(f"must have strings of 1 to {MAX_STOP_CHARACTERS} characters")
    return tuple(strings)


class SamplingRequest(Sampling, ModelRequest):
    """What chat and text completions share: the model, the limits and how tokens are chosen."""

    extensions: ClassVar[frozenset[str]] = Sampling.extensions | {"structured_outputs"}

    stream: StrictBool = Field(default=False, description="Send the answer as server-sent events while it is written.")
    stream_options: StreamOptions | None = Field(
        default=None,
        description="`include_usage`: one more event with the usage at the end. Only with `stream`.",
    )
    max_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] | None = Field(
        default=None,
        validation_alias=AliasChoices("max_tokens", "max_completion_tokens"),
        description="At most so many tokens are written, at least 1; what the context leaves is a limit anyway. "
        "Both names mean the same and must agree.",
    )
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] = Field(
        default=1, description=f"Answers to write, 1 to {MAX_CHOICES}."
    )
    stop: Annotated[tuple[str, ...], BeforeValidator(stop_strings)] = Field(
        default=(),
        description=f"A string or up to {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_CHARACTERS} characters; "
        "the answer ends before the first that occurs, and the choice's `stop_reason` says which that was.",
    )
    response_format: ResponseFormat | None = Field(
        default=None,
        description="`text`, `json_object` or `json_schema` (`name`, `schema`, `strict`, `description`); "
        f"a schema is {SCHEMA_BOUNDS}.",
    )
    structured_outputs: StructuredOutputs | None = Field(
        default=None,
        description="What the whole answer looks like, as exactly one of `json` (a JSON schema or its text, "
        f"{SCHEMA_BOUNDS}), `regex` (up to {MAX_REGEX_CHARACTERS} characters, without look-around and "
        f"back references; `\\d` and `\\w` are of ASCII), `choice` (1 to {MAX_ALTERNATIVES} "
        f"strings) and `grammar` (GBNF or Lark, at most {MAX_GRAMMAR_BYTES // 1024} KiB). Not beside a "
        "`response_format` other than `text`.",
    )

    @model_validator(mode="after")
    def _check_stream_options_belong(self) -> Self:
        if self.stream_options is not None and not self.stream:
            refuse("is only allowed with `stream`", "stream_options")
        return self

    @model_validator(mode="after")
    def _check_one_form_is_stated(self) -> Self:
        form = self.response_format
        if self.structured_outputs is not None and form is not None and form.type != "text":
            refuse("cannot be combined with `response_format`", "structured_outputs")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with an event of its own for the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def reported_alternatives(self) -> int | None:
        """How many of the likeliest tokens to report beside each token's own log probability; None: no report."""
        raise NotImplementedError

    def canonical(self, *, max_tokens: int | None = None) -> bytes:
        """As for every request; `max_tokens` fills in where this one states no limit."""
        request = self
        if self.max_tokens is None and max_tokens is not None:
            request = self.model_copy(update={"max_tokens": max_tokens})
        return request.model_dump_json(exclude_unset=True, by_alias=True).encode()


class ChatRequest(ChatInput, SamplingRequest):
    """A body of `POST /v1/chat/completions`."""

    policy: ClassVar[Policy] = CHAT_POLICY
    extensions: ClassVar[frozenset[str]] = SamplingRequest.extensions | ChatInput.extensions | {"thinking_token_budget"}

    parallel_tool_calls: StrictBool = Field(
        default=True, description="Whether the answer may call more than one function."
    )
    logprobs: StrictBool = Field(default=False, description="Report the log probability of each token of the answer.")
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        default=None,
        description=f"0 to {MAX_TOP_LOGPROBS}: so many of the likeliest tokens are reported beside each. "
        "Only with `logprobs`.",
    )
    thinking_token_budget: Annotated[StrictInt, Field(ge=0, le=MAX_TOKENS)] | None = Field(
        default=None, description="After so many tokens of thinking the model has to answer."
    )

    @property
    def reported_alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _check_one_form_is_demanded(self) -> Self:
        if self.demanded_tools and self.structured_outputs is not None:
            refuse("cannot be combined with a `tool_choice` that demands a call", "structured_outputs")
        return self

    @model_validator(mode="after")
    def _check_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            refuse("is only allowed with `logprobs`", "top_logprobs")
        return self

    @model_validator(mode="after")
    def _check_where_the_answer_starts(self) -> Self:
        if self.add_generation_prompt is False and not self.continue_final_message:
            refuse("may only be false with `continue_final_message`", "add_generation_prompt")
        return self


class CompletionRequest(SamplingRequest):
    """A body of `POST /v1/completions`. `prompt` holds one or more prompts, all text or all token ids."""

    policy: ClassVar[Policy] = COMPLETION_POLICY
    extensions: ClassVar[frozenset[str]] = SamplingRequest.extensions | {"response_format"}

    prompt: Annotated[Prompts, BeforeValidator(prompts(MAX_PROMPTS))] = Field(
        description=f"A string, up to {MAX_PROMPTS} strings, a list of token ids or up to {MAX_PROMPTS} of those; "
        "none of them empty.",
    )
    max_tokens: Annotated[StrictInt, Field(ge=0, le=MAX_TOKENS)] | None = Field(
        default=None,
        validation_alias=AliasChoices("max_tokens", "max_completion_tokens"),
        description="At most so many tokens are written, at least 1, or 0 with `echo`; what the context leaves is a "
        "limit anyway. Both names mean the same and must agree.",
    )
    suffix: StrictStr | None = Field(
        default=None,
        description="The text after the gap that the answer fills, for models trained to do so; empty is the same as "
        "absent. Not with `echo`.",
    )
    echo: StrictBool = Field(default=False, description="Start each choice's text with its prompt.")
    logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        default=None,
        description=f"0 to {MAX_TOP_LOGPROBS}: report the log probability of each token, those of an echoed prompt "
        "too, and so many of the likeliest beside it.",
    )

    @property
    def reported_alternatives(self) -> int | None:
        return self.logprobs

    @model_validator(mode="after")
    def _check_what_echo_changes(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            refuse("must be at least 1, except with `echo`", "max_tokens")
        if self.suffix and self.echo:
            refuse("cannot be combined with `echo`", "suffix")
        return self
