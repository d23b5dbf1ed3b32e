"""What is read from a worker's stream and from its whole answers."""

from __future__ import annotations

import json

import pytest

from llmserve.dialects.chat_answer import read_answer
from llmserve.dialects.chat_events import (
    CallArguments,
    CallStart,
    ChatEventReader,
    Content,
    Counts,
    Done,
    Failed,
    Finish,
    Thought,
)
from llmserve.openai import sse
from llmserve.openai.responses import Choice, CompletionChunks, ToolInvocation
from tests.dialects.streams import DIED, TIMINGS, broken_stream, call_stream, text_stream, thought_stream, whole

COUNTS = Counts(10, 5, 4, 2, TIMINGS)


def read(events: list[bytes]) -> list[object]:
    reader = ChatEventReader()
    return [event for chunk in events for event in reader.feed(chunk)]


def test_text() -> None:
    assert read(text_stream(["Hel", "lo"])) == [Content("Hel"), Content("lo"), Finish("stop"), COUNTS, Done()]


def test_thoughts() -> None:
    assert read(thought_stream())[:3] == [Thought("let me "), Thought("see"), Content("42")]


def test_calls() -> None:
    assert read(call_stream())[1:7] == [
        CallStart(0, "call_a", "add"),
        CallArguments(0, '{"a": 1,'),
        CallArguments(0, ' "b": 2}'),
        CallStart(1, "call_b", "now"),
        CallArguments(1, "{}"),
        Finish("tool_calls"),
    ]


def test_a_stop_string() -> None:
    assert Finish("stop", "END") in read(text_stream(["x"], "stop", "END"))


def test_an_error_event() -> None:
    assert read(broken_stream())[-1] == Failed(DIED.body()["error"])


def test_a_text_completion() -> None:
    chunks = CompletionChunks("id", "m", 1, include_usage=False)
    events = [chunks.start(0), chunks.text(0, "abc"), chunks.finish(0, "length"), sse.DONE]
    assert read(events) == [Content("abc"), Finish("length"), Done()]


def test_comments_and_cut_bytes_do_not_matter() -> None:
    stream = b"".join([sse.KEEP_ALIVE, *thought_stream()])
    assert read([stream[place : place + 7] for place in range(0, len(stream), 7)]) == read(thought_stream())


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_under_either_name(field: str) -> None:
    event = sse.event({"choices": [{"index": 0, "delta": {field: "hm"}, "finish_reason": None}]})
    assert read([event]) == [Thought("hm")]


def test_a_token_id_is_no_stop_string() -> None:
    event = sse.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": 7}]})
    assert read([event]) == [Finish("stop")]


def test_a_whole_answer() -> None:
    call = ToolInvocation("call_a", "add", "{}")
    answer = read_answer(whole(Choice("hi", "tool_calls", "hm", (call,))))
    assert (answer.text, answer.reasoning, answer.calls) == ("hi", "hm", (call,))
    assert (answer.finish, answer.counts) == (Finish("tool_calls"), COUNTS)


def test_a_whole_answer_that_is_none() -> None:
    for body in (b"{}", b"[]", b'{"choices": []}', json.dumps({"choices": [3]}).encode(), b"nonsense"):
        with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
            read_answer(body)
