"""The answers, in OpenAI's shape: whole, or as the events of a stream.

`timings` are numbers under llama.cpp's names (prompt_n, cache_n, prompt_ms, predicted_n, predicted_ms,
predicted_per_second), which clients show beside an answer. They are the one key that OpenAI's shape does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quote
from typing import Any, ClassVar, Literal

from llmserve.openai.json import dump_json

FinishReason = Literal["stop", "length"]
Timings = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request, over all its choices. `cached_tokens` of the prompt's were not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer of a request."""

    text: str
    finish_reason: FinishReason


def chat_completion(
    id: str, model: str, created: int, choices: Sequence[Choice], usage: Usage, timings: Timings | None = None
) -> dict[str, Any]:
    """The whole answer to a chat request; a choice's index is its place. `created` is in seconds since 1970."""
    messages = [{"message": {"role": "assistant", "content": choice.text, "refusal": None}} for choice in choices]
    head = {"id": id, "object": "chat.completion", "created": created, "model": model, "system_fingerprint": None}
    return {**head, "choices": _numbered(messages, choices), **_counts(usage, timings)}


def text_completion(
    id: str, model: str, created: int, choices: Sequence[Choice], usage: Usage, timings: Timings | None = None
) -> dict[str, Any]:
    """The whole answer to a text completion request; otherwise as `chat_completion`."""
    texts = [{"text": choice.text} for choice in choices]
    head = {"id": id, "object": "text_completion", "created": created, "model": model, "system_fingerprint": None}
    return {**head, "choices": _numbered(texts, choices), **_counts(usage, timings)}


class _Chunks:
    """Writes the events of one stream.

    Everything but the text is the same in all of a stream's events, so it is formatted once: `text` runs for every
    token of every client and does nothing but quote its argument.
    """

    _object: ClassVar[str]
    _text_open: ClassVar[str]
    _text_close: ClassVar[str]
    _nothing: ClassVar[str]

    def __init__(self, id: str, model: str, created: int, include_usage: bool) -> None:
        self._head = (
            f'data: {{"id":{quote(id)},"object":"{self._object}","created":{created},"model":{quote(model)},'
            '"system_fingerprint":null,"choices":['
        )
        # A client that asks for the usage gets it in an event of its own, and null in all the others.
        self._no_usage = ',"usage":null' if include_usage else ""
        self._before_index = self._head + '{"index":'
        self._before_text = f",{self._text_open}"
        self._after_text = f'{self._text_close},"logprobs":null,"finish_reason":null}}]{self._no_usage}}}\n\n'

    def text(self, index: int, text: str) -> bytes:
        """More text of the choice `index`."""
        return f"{self._before_index}{index}{self._before_text}{quote(text)}{self._after_text}".encode()

    def finish(self, index: int, reason: FinishReason, timings: Timings | None = None) -> bytes:
        """The last event of the choice `index`."""
        return self._choice(index, self._nothing, f'"{reason}"', timings)

    def usage(self, usage: Usage, timings: Timings | None = None) -> bytes:
        """The event for a client that asked for the usage: no choices, sent when all of them are finished."""
        counts = dump_json(_counts(usage, timings)).decode()
        return f"{self._head}],{counts[1:]}\n\n".encode()

    def _choice(self, index: int, fields: str, finish_reason: str, timings: Timings | None = None) -> bytes:
        measured = f',"timings":{dump_json(dict(timings)).decode()}' if timings is not None else ""
        return (
            f'{self._before_index}{index},{fields},"logprobs":null,"finish_reason":{finish_reason}}}]'
            f"{self._no_usage}{measured}}}\n\n"
        ).encode()


class ChatChunks(_Chunks):
    """Writes the events of a streamed chat answer."""

    _object = "chat.completion.chunk"
    _text_open = '"delta":{"content":'
    _text_close = "}"
    _nothing = '"delta":{}'

    def start(self, index: int) -> bytes:
        """The first event of the choice `index`, which says who speaks."""
        return self._choice(index, '"delta":{"role":"assistant","content":"","refusal":null}', "null")


class CompletionChunks(_Chunks):
    """Writes the events of a streamed text completion."""

    _object = "text_completion"
    _text_open = '"text":'
    _text_close = ""
    _nothing = '"text":""'

    def start(self, index: int) -> bytes:
        """Nothing: a text completion has no opening event."""
        return b""


def _numbered(bodies: Sequence[dict[str, Any]], choices: Sequence[Choice]) -> list[dict[str, Any]]:
    return [
        {"index": index, **body, "logprobs": None, "finish_reason": choice.finish_reason}
        for index, (body, choice) in enumerate(zip(bodies, choices, strict=True))
    ]


def _counts(usage: Usage, timings: Timings | None) -> dict[str, Any]:
    counts: dict[str, Any] = {"usage": usage.as_dict()}
    if timings is not None:
        counts["timings"] = dict(timings)
    return counts
