"""What a worker writes: streams and whole answers, made by the code that makes them in a worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmserve.errors import LlmserveError, WorkerDied
from llmserve.openai import sse
from llmserve.openai.json import dump_json
from llmserve.openai.responses import ChatChunks, Choice, FinishReason, Usage, chat_completion

USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4, reasoning_tokens=2)
TIMINGS = {"prompt_n": 6.0, "cache_n": 4.0, "prompt_ms": 1.5, "predicted_n": 5.0, "predicted_ms": 20.0}
DIED = WorkerDied("the worker of `m` was killed by SIGKILL")

CHUNKS = ChatChunks("id", "m", 1, include_usage=True)


def ending(reason: FinishReason, stop_string: str | None = None) -> list[bytes]:
    return [CHUNKS.finish(0, reason, None, stop_string), CHUNKS.usage(USAGE, TIMINGS), sse.DONE]


def text_stream(texts: Sequence[str], reason: FinishReason = "stop", stop_string: str | None = None) -> list[bytes]:
    return [CHUNKS.start(0), *(CHUNKS.text(0, text) for text in texts), *ending(reason, stop_string)]


def thought_stream() -> list[bytes]:
    """Thoughts, then text."""
    thoughts = [CHUNKS.reasoning(0, "let me "), CHUNKS.reasoning(0, "see")]
    return [CHUNKS.start(0), *thoughts, CHUNKS.text(0, "42"), *ending("stop")]


def call_stream() -> list[bytes]:
    """A word, then two calls."""
    return [
        CHUNKS.start(0),
        CHUNKS.text(0, "Wait."),
        CHUNKS.tool_call(0, 0, "call_a", "add"),
        CHUNKS.tool_arguments(0, 0, '{"a": 1,'),
        CHUNKS.tool_arguments(0, 0, ' "b": 2}'),
        CHUNKS.tool_call(0, 1, "call_b", "now"),
        CHUNKS.tool_arguments(0, 1, "{}"),
        *ending("tool_calls"),
    ]


def cut_call_stream() -> list[bytes]:
    """A call that the limit of tokens cuts off."""
    call = [CHUNKS.tool_call(0, 0, "call_a", "add"), CHUNKS.tool_arguments(0, 0, '{"a": 1,')]
    return [CHUNKS.start(0), *call, *ending("length")]


def broken_stream(error: LlmserveError = DIED) -> list[bytes]:
    """The worker dies in the middle: an error event, and no end."""
    return [CHUNKS.start(0), CHUNKS.text(0, "Hel"), sse.error_event(error)]


def whole(choice: Choice) -> bytes:
    return dump_json(chat_completion("id", "m", 1, [choice], USAGE, TIMINGS))


def cuts(events: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The same stream in pieces of several sizes; a piece holds whole events."""
    yield list(events)
    yield [b"".join(events)]
    yield [b"".join(events[start : start + 2]) for start in range(0, len(events), 2)]
