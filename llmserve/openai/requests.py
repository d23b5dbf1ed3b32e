"""The requests this server honours: closed, bounded, and the same after a round trip through their canonical form.

A field's description is its row in `docs/api.md`. None (or an empty tuple) means that the request did not state it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AliasChoices,
    BeforeValidator,
    FailFast,
    Field,
    StrictBool,
    StrictInt,
    model_validator,
)

from llmserve.openai.fields import CHAT_POLICY, COMPLETION_POLICY, STREAM_OPTIONS_POLICY, Policy
from llmserve.openai.messages import Message
from llmserve.openai.response_format import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, ResponseFormat
from llmserve.openai.schema import Line, Number, Schema, refuse, vanishes

MAX_MESSAGES = 4096
MAX_PROMPTS = 64
MAX_CHOICES = 8
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1024
MAX_BIASES = 1024
TOKEN_ID_LIMIT = 2**31

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


class StreamOptions(Schema):
    place: ClassVar[str] = "stream_options."
    policy: ClassVar[Policy] = STREAM_OPTIONS_POLICY

    include_usage: StrictBool = False


def _stop_strings(stop: object) -> tuple[str, ...]:
    strings = [stop] if isinstance(stop, str) else stop
    if not isinstance(strings, list) or not all(isinstance(item, str) for item in strings):
        refuse("must be a string or a list of strings")
    if len(strings) > MAX_STOP_STRINGS:
        refuse(f"must have at most {MAX_STOP_STRINGS} strings")
    if not all(1 <= len(item) <= MAX_STOP_CHARACTERS for item in strings):
        refuse(f"must have strings of 1 to {MAX_STOP_CHARACTERS} characters")
    return tuple(strings)


def _biases(biases: object) -> dict[int, float]:
    """Token id to bias. The ids' upper bound is the vocabulary, which only the model's worker knows."""
    if not isinstance(biases, dict):
        refuse("must be an object of token ids and numbers")
    if len(biases) > MAX_BIASES:
        refuse(f"must have at most {MAX_BIASES} entries")
    result: dict[int, float] = {}
    for token, bias in biases.items():
        if not _TOKEN_ID.fullmatch(str(token)) or int(token) >= TOKEN_ID_LIMIT:
            refuse(f"must have token ids as keys, decimal and below {TOKEN_ID_LIMIT}")
        if type(bias) not in {int, float} or not -100 <= bias <= 100 or vanishes(bias):
            refuse("must have numbers from -100 to 100 as values")
        result[int(token)] = float(bias)
    return result


class SamplingRequest(Schema):
    """What chat and text completions share: the model, the limits and how tokens are chosen."""

    extensions: ClassVar[frozenset[str]] = frozenset({"top_k", "min_p", "repetition_penalty", "ignore_eos"})

    model: Annotated[Line, Field(max_length=512)] = Field(
        description="Name of the model: 1 to 512 characters, no control characters."
    )
    stream: StrictBool = Field(default=False, description="Send the answer as server-sent events while it is written.")
    stream_options: StreamOptions | None = Field(
        default=None,
        description="`include_usage`: one more event with the usage at the end. Only with `stream`.",
    )
    max_tokens: Annotated[StrictInt, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None,
        validation_alias=AliasChoices("max_tokens", "max_completion_tokens"),
        description="At most so many tokens are written, at least 1; what the context leaves is a limit anyway. "
        "Both names mean the same and must agree.",
    )
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] = Field(
        default=1, description=f"Answers to write, 1 to {MAX_CHOICES}."
    )
    stop: Annotated[tuple[str, ...], BeforeValidator(_stop_strings)] = Field(
        default=(),
        description=f"A string or up to {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_CHARACTERS} characters; "
        "the answer ends before the first that occurs.",
    )
    seed: Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)] | None = Field(
        default=None, description="Start of the random numbers, a 64-bit integer."
    )
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = Field(
        default=None, description="0 to 2; 0 always takes the likeliest token."
    )
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        default=None, description="Above 0, to 1: the likeliest tokens with this much probability are in the draw."
    )
    top_k: Annotated[StrictInt, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="0 to 1000000: so many of the likeliest tokens are in the draw; 0 is all."
    )
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None, description="0 to 1: tokens less likely than this share of the likeliest one are out."
    )
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = Field(
        default=None, description="-2 to 2, taken from the logit of every token that occurred."
    )
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = Field(
        default=None, description="-2 to 2, taken from a token's logit once for each time it occurred."
    )
    repetition_penalty: Annotated[Number, Field(gt=0, le=10)] | None = Field(
        default=None, description="Above 0, to 10: weakens tokens that occurred; 1 is off."
    )
    logit_bias: Annotated[dict[int, float], BeforeValidator(_biases)] | None = Field(
        default=None,
        description=f"Token id to a number from -100 to 100 that is added to its logit; at most {MAX_BIASES} entries.",
    )
    ignore_eos: StrictBool = Field(default=False, description="Go on past the model's end of text; for benchmarks.")
    response_format: ResponseFormat | None = Field(
        default=None,
        description="`text`, `json_object` or `json_schema` (`name`, `schema`, `strict`, `description`); "
        f"a schema is at most {MAX_SCHEMA_BYTES // 1024} KiB and {MAX_SCHEMA_DEPTH} levels.",
    )

    @model_validator(mode="before")
    @classmethod
    def _merge_limits(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("max_tokens") is None:
            return data
        newer = data.get("max_completion_tokens")
        if newer is not None and (type(newer) is not type(data["max_tokens"]) or newer != data["max_tokens"]):
            refuse("differs from `max_tokens`", "max_completion_tokens")
        return {name: value for name, value in data.items() if name != "max_completion_tokens"}

    @model_validator(mode="after")
    def _check_stream_options_belong(self) -> Self:
        if self.stream_options is not None and not self.stream:
            refuse("is only allowed with `stream`", "stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with an event of its own for the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def canonical(self, *, max_tokens: int | None = None) -> bytes:
        """The request as compact JSON of exactly the known fields it states; parsing that gives an equal request.

        `max_tokens` fills in where the request states no limit.
        """
        request = self
        if self.max_tokens is None and max_tokens is not None:
            request = self.model_copy(update={"max_tokens": max_tokens})
        return request.model_dump_json(exclude_unset=True, by_alias=True).encode()


class ChatRequest(SamplingRequest):
    """A body of `POST /v1/chat/completions`."""

    policy: ClassVar[Policy] = CHAT_POLICY

    messages: Annotated[tuple[Message, ...], FailFast(), Field(min_length=1, max_length=MAX_MESSAGES)] = Field(
        description=f"The conversation so far: 1 to {MAX_MESSAGES} messages."
    )


Prompts = tuple[str, ...] | tuple[tuple[int, ...], ...]


_PROMPT_FORMS = "must be a string, a list of strings, a list of token ids or a list of those"


def _prompts(prompt: object) -> Prompts:
    if not isinstance(prompt, str | list):
        refuse(_PROMPT_FORMS)
    if not prompt:
        refuse("must not be empty")
    prompts = [prompt] if isinstance(prompt, str) or type(prompt[0]) is int else prompt
    if len(prompts) > MAX_PROMPTS:
        refuse(f"must hold at most {MAX_PROMPTS} prompts")
    kinds = set(map(type, prompts))
    if kinds not in ({str}, {list}):
        refuse(_PROMPT_FORMS)
    if not all(prompts):
        refuse("must not hold an empty prompt")
    return tuple(prompts) if kinds == {str} else tuple(map(_token_ids, prompts))


def _token_ids(tokens: list[Any]) -> tuple[int, ...]:
    # Looped over in C: a prompt may be a hundred thousand tokens long.
    if set(map(type, tokens)) != {int} or min(tokens) < 0 or max(tokens) >= TOKEN_ID_LIMIT:
        refuse(f"must have integers from 0 to {TOKEN_ID_LIMIT - 1} as token ids")
    return tuple(tokens)


class CompletionRequest(SamplingRequest):
    """A body of `POST /v1/completions`. `prompt` holds one or more prompts, all text or all token ids."""

    policy: ClassVar[Policy] = COMPLETION_POLICY
    extensions: ClassVar[frozenset[str]] = SamplingRequest.extensions | {"response_format"}

    prompt: Annotated[Prompts, BeforeValidator(_prompts)] = Field(
        description=f"A string, up to {MAX_PROMPTS} strings, a list of token ids or up to {MAX_PROMPTS} of those; "
        "none of them empty.",
    )
