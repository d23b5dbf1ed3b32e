"""The answers, in OpenAI's shape: whole, or as the events of a stream.

`timings` are numbers under llama.cpp's names (prompt_n, cache_n, prompt_ms, predicted_n, predicted_ms,
predicted_per_second), which clients show beside an answer. Neither they nor a message's `reasoning_content` nor a
choice's `stop_reason` (vLLM's name for the stop string that ended it) are in OpenAI's shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quote
from typing import Any, ClassVar, Literal

from llmserve.openai.json import dump_ascii_json
from llmserve.openai.logprobs import TextOffsets, TokenLogprob, chat_logprobs, text_logprobs

FinishReason = Literal["stop", "length", "tool_calls"]
Timings = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request, over all its choices.

    `cached_tokens` of the prompt's were not computed again; `reasoning_tokens` of the completion's are thoughts.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@dataclass(frozen=True, slots=True)
class ToolInvocation:
    """One call in an answer. `arguments` is the JSON text that the model wrote; `id` is unique in the conversation."""

    id: str
    name: str
    arguments: str

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer of a request.

    `reasoning` is what the model thought, without the marks around it, and None where it did not think. `logprobs`
    are those of the tokens of `text`, and None where the request did not ask for them. `stop_string` is the one that
    ended the answer, None where something else did.
    """

    text: str
    finish_reason: FinishReason
    reasoning: str | None = None
    tool_calls: tuple[ToolInvocation, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    stop_string: str | None = None


def chat_completion(
    id: str, model: str, created: int, choices: Sequence[Choice], usage: Usage, timings: Timings | None = None
) -> dict[str, Any]:
    """The whole answer to a chat request; a choice's index is its place. `created` is in seconds since 1970."""
    messages = [
        {"message": _message(choice), "logprobs": None if choice.logprobs is None else chat_logprobs(choice.logprobs)}
        for choice in choices
    ]
    head = {"id": id, "object": "chat.completion", "created": created, "model": model, "system_fingerprint": None}
    return {**head, "choices": _numbered(messages, choices), **_counts(usage, timings)}


def text_completion(
    id: str, model: str, created: int, choices: Sequence[Choice], usage: Usage, timings: Timings | None = None
) -> dict[str, Any]:
    """The whole answer to a text completion request; otherwise as `chat_completion`."""
    texts = [
        {
            "text": choice.text,
            "logprobs": None if choice.logprobs is None else text_logprobs(choice.logprobs, TextOffsets()),
        }
        for choice in choices
    ]
    head = {"id": id, "object": "text_completion", "created": created, "model": model, "system_fingerprint": None}
    return {**head, "choices": _numbered(texts, choices), **_counts(usage, timings)}


def _message(choice: Choice) -> dict[str, Any]:
    only_calls = choice.tool_calls and not choice.text
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if only_calls else choice.text,
        "refusal": None,
    }
    if choice.reasoning is not None:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [call.as_dict() for call in choice.tool_calls]
    return message


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

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        """More text of the choice `index`, and the probabilities of its tokens where they were asked for."""
        if logprobs:
            fields = f"{self._text_open}{quote(text)}{self._text_close}"
            return self._choice(index, fields, logprobs=dump_ascii_json(self._shape(index, logprobs)))
        return f"{self._before_index}{index}{self._before_text}{quote(text)}{self._after_text}".encode()

    def finish(
        self, index: int, reason: FinishReason, timings: Timings | None = None, stop_string: str | None = None
    ) -> bytes:
        """The last event of the choice `index`, and the stop string that ended it, if one did."""
        stop_reason = f',"stop_reason":{quote(stop_string)}' if stop_string is not None else ""
        return self._choice(index, self._nothing, finish_reason=f'"{reason}"{stop_reason}', timings=timings)

    def usage(self, usage: Usage, timings: Timings | None = None) -> bytes:
        """The event for a client that asked for the usage: no choices, sent when all of them are finished."""
        counts = dump_ascii_json(_counts(usage, timings))
        return f"{self._head}],{counts[1:]}\n\n".encode()

    def _choice(
        self,
        index: int,
        fields: str,
        *,
        logprobs: str = "null",
        finish_reason: str = "null",
        timings: Timings | None = None,
    ) -> bytes:
        measured = f',"timings":{dump_ascii_json(dict(timings))}' if timings is not None else ""
        return (
            f'{self._before_index}{index},{fields},"logprobs":{logprobs},"finish_reason":{finish_reason}}}]'
            f"{self._no_usage}{measured}}}\n\n"
        ).encode()

    def _shape(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        raise NotImplementedError


class ChatChunks(_Chunks):
    """Writes the events of a streamed chat answer."""

    _object = "chat.completion.chunk"
    _text_open = '"delta":{"content":'
    _text_close = "}"
    _nothing = '"delta":{}'

    def start(self, index: int) -> bytes:
        """The first event of the choice `index`, which says who speaks."""
        return self._choice(index, '"delta":{"role":"assistant","content":"","refusal":null}')

    def reasoning(self, index: int, text: str) -> bytes:
        """More of what the model thinks in the choice `index`."""
        return self._choice(index, f'"delta":{{"reasoning_content":{quote(text)}}}')

    def tool_call(self, index: int, call: int, id: str, name: str) -> bytes:
        """The start of the call number `call`, from 0, of the choice `index`; its arguments follow."""
        function = f'{{"name":{quote(name)},"arguments":""}}'
        return self._call(index, f'{{"index":{call},"id":{quote(id)},"type":"function","function":{function}}}')

    def tool_arguments(self, index: int, call: int, text: str) -> bytes:
        """More of the JSON text of that call's arguments."""
        return self._call(index, f'{{"index":{call},"function":{{"arguments":{quote(text)}}}}}')

    def _call(self, index: int, call: str) -> bytes:
        return self._choice(index, f'"delta":{{"tool_calls":[{call}]}}')

    def _shape(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        return chat_logprobs(logprobs)


class CompletionChunks(_Chunks):
    """Writes the events of a streamed text completion."""

    _object = "text_completion"
    _text_open = '"text":'
    _text_close = ""
    _nothing = '"text":""'

    def __init__(self, id: str, model: str, created: int, include_usage: bool) -> None:
        super().__init__(id, model, created, include_usage)
        self._offsets: dict[int, TextOffsets] = {}

    def start(self, index: int) -> bytes:
        """Nothing: a text completion has no opening event."""
        return b""

    def _shape(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        return text_logprobs(logprobs, self._offsets.setdefault(index, TextOffsets()))


def _numbered(bodies: Sequence[dict[str, Any]], choices: Sequence[Choice]) -> list[dict[str, Any]]:
    return [
        {"index": index, **body, "finish_reason": choice.finish_reason, **_stop_reason(choice)}
        for index, (body, choice) in enumerate(zip(bodies, choices, strict=True))
    ]


def _stop_reason(choice: Choice) -> dict[str, Any]:
    return {"stop_reason": choice.stop_string} if choice.stop_string is not None else {}


def _counts(usage: Usage, timings: Timings | None) -> dict[str, Any]:
    counts: dict[str, Any] = {"usage": usage.as_dict()}
    if timings is not None:
        counts["timings"] = dict(timings)
    return counts
