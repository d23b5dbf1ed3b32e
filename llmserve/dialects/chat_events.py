"""What a worker's streamed answer says, event by event, whatever dialect it is to be told in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from llmserve.openai.sse import EventParser


@dataclass(frozen=True, slots=True)
class Content:
    """More of the text of the answer; `logprobs` are OpenAI's entries for its tokens, where they were asked for."""

    text: str
    logprobs: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Thought:
    """More of what the model thinks."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The start of the call number `number`, counted from 0."""

    number: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of a call's arguments."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Why the answer ends: `stop`, `length` or `tool_calls`.

    `stop_string` is the one that was met, where one was and the worker says which.
    """

    reason: str
    stop_string: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of the request, and llama.cpp's `timings`, empty where the engine does not measure them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    timings: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer ends here, because of `error`: `message`, `type`, `param` and `code`, as OpenAI has them."""

    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is complete."""


ChatEvent: TypeAlias = Content | Thought | CallStart | CallArguments | Finish | Counts | Failed | Done


class ChatEventReader:
    """Reads the bytes of a stream of one choice, of a chat or of a text completion, however they are cut."""

    def __init__(self) -> None:
        self._parser = EventParser()

    def feed(self, chunk: bytes) -> list[ChatEvent]:
        """What the events that `chunk` completes say; comments say nothing."""
        return [event for data in self._parser.feed(chunk) for event in _events(data)]


def counts(answer: Mapping[str, Any]) -> Counts | None:
    """The counts in an answer or event, None where it states none."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    return Counts(
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        reasoning_tokens=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
        timings=answer.get("timings") or {},
    )


def finish(choice: Mapping[str, Any]) -> Finish | None:
    """Why a choice ends, None where it does not."""
    reason, stop = choice.get("finish_reason"), choice.get("stop_reason")
    return Finish(reason, stop if isinstance(stop, str) else None) if reason else None


def _events(data: bytes) -> Iterator[ChatEvent]:
    if data == b"[DONE]":
        yield Done()
        return
    event = json.loads(data)
    if "error" in event:
        yield Failed(event["error"])
        return
    for choice in event.get("choices") or ():
        yield from _deltas(choice)
        if (end := finish(choice)) is not None:
            yield end
    if (measured := counts(event)) is not None:
        yield measured


def _deltas(choice: Mapping[str, Any]) -> Iterator[ChatEvent]:
    delta = choice.get("delta") or {}
    # vLLM calls it `reasoning`.
    if thought := delta.get("reasoning_content") or delta.get("reasoning"):
        yield Thought(thought)
    logprobs = tuple((choice.get("logprobs") or {}).get("content") or ()) if "delta" in choice else ()
    text = delta.get("content") or choice.get("text") or ""
    if text or logprobs:
        yield Content(text, logprobs)
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        if call.get("id"):
            yield CallStart(call["index"], call["id"], function.get("name") or "")
        if arguments := function.get("arguments"):
            yield CallArguments(call["index"], arguments)
