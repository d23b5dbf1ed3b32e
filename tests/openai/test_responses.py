"""Answers and chunks: what OpenAI's own client reads from them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmserve.openai.json import dump_json
from llmserve.openai.responses import (
    ChatChunks,
    Choice,
    CompletionChunks,
    ToolInvocation,
    Usage,
    chat_completion,
    text_completion,
)
from llmserve.openai.sse import EventParser

USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)
TIMINGS = {"prompt_n": 6, "cache_n": 4, "prompt_ms": 1.5, "predicted_n": 5, "predicted_ms": 20.0}
CHOICES = [Choice("one é\n", "stop"), Choice("", "length")]
HOSTILE_TEXTS = [
    "\n\ndata: [DONE]\n\n",
    "\r\n\r\nevent: execute\r\ndata: {}\r\n\r\n",
    "a\u2028b\u2029c\x85d\x1ce",
    "\U0001f600 é ü 漢字 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    '"}],"usage":{"total_tokens":9}}',
    "\x00\x01\x1f\x7f\\\\n",
    "</script><!-- {{ %s %n",
    "\ufffd\ufeff",
]


def payloads(*events: bytes) -> list[Any]:
    """The JSON of each event; fails unless every one is exactly one event."""
    values = []
    for event in events:
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        assert event.count(b"\n") == 2
        (data,) = EventParser().feed(event)
        values.append(json.loads(data))
    return values


def test_usage() -> None:
    assert USAGE.as_dict() == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert Usage(1, 9, 0, reasoning_tokens=7).as_dict()["completion_tokens_details"] == {"reasoning_tokens": 7}


def test_whole_chat_answer() -> None:
    answer = chat_completion("chatcmpl-1", "m", 1_700_000_000, CHOICES, USAGE)
    assert list(answer) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    read = ChatCompletion.model_validate_json(dump_json(answer), strict=True)
    assert (read.id, read.object, read.created, read.model) == ("chatcmpl-1", "chat.completion", 1_700_000_000, "m")
    assert [choice.index for choice in read.choices] == [0, 1]
    assert [choice.message.content for choice in read.choices] == ["one é\n", ""]
    assert [choice.finish_reason for choice in read.choices] == ["stop", "length"]
    assert read.choices[0].message.role == "assistant"
    assert read.choices[0].message.refusal is None
    assert set(answer["choices"][0]) == {"index", "message", "logprobs", "finish_reason"}
    assert read.usage is not None
    assert read.usage.total_tokens == 15
    assert read.usage.prompt_tokens_details is not None
    assert read.usage.prompt_tokens_details.cached_tokens == 4


CALLS = (ToolInvocation("call_1", "f", '{"a":1}'), ToolInvocation("call_2", "g", "{}"))


def test_whole_answer_with_calls_and_thoughts() -> None:
    choices = [
        Choice("", "tool_calls", tool_calls=CALLS),
        Choice("see", "tool_calls", reasoning="well", tool_calls=CALLS),
        Choice("", "length", reasoning="wel"),
    ]
    answer = chat_completion("a", "m", 1, choices, USAGE)
    read = ChatCompletion.model_validate_json(dump_json(answer), strict=True)
    only_calls, both, thoughts = (choice.message for choice in read.choices)
    assert [message.content for message in (only_calls, both, thoughts)] == [None, "see", ""]
    assert [entry["message"].get("reasoning_content") for entry in answer["choices"]] == [None, "well", "wel"]
    assert "reasoning_content" not in answer["choices"][0]["message"]
    assert "tool_calls" not in answer["choices"][2]["message"]
    for message in (only_calls, both):
        assert message.tool_calls is not None
        assert [call.to_dict() for call in message.tool_calls] == [call.as_dict() for call in CALLS]
    assert read.choices[0].finish_reason == "tool_calls"


def test_whole_text_answer() -> None:
    answer = text_completion("cmpl-1", "m", 1_700_000_000, CHOICES, USAGE)
    read = Completion.model_validate_json(dump_json(answer), strict=True)
    assert (read.id, read.object, read.created, read.model) == ("cmpl-1", "text_completion", 1_700_000_000, "m")
    assert [(choice.index, choice.text, choice.finish_reason) for choice in read.choices] == [
        (0, "one é\n", "stop"),
        (1, "", "length"),
    ]
    assert set(answer["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}


@pytest.mark.parametrize("write", [chat_completion, text_completion])
def test_whole_answers_carry_timings(write: Any) -> None:
    assert write("a", "m", 1, CHOICES, USAGE, TIMINGS)["timings"] == TIMINGS
    assert "timings" not in write("a", "m", 1, CHOICES, USAGE)


@pytest.mark.parametrize("include_usage", [True, False])
def test_chat_stream(include_usage: bool) -> None:
    chunks = ChatChunks("chatcmpl-1", "m", 1_700_000_000, include_usage)
    events = [chunks.start(0), chunks.text(0, "one"), chunks.start(1), chunks.text(1, "two"), chunks.finish(0, "stop")]
    bodies = payloads(*events, chunks.finish(1, "length"))
    read = [ChatCompletionChunk.model_validate_json(json.dumps(body), strict=True) for body in bodies]
    assert {chunk.object for chunk in read} == {"chat.completion.chunk"}
    assert {(chunk.id, chunk.model, chunk.created) for chunk in read} == {("chatcmpl-1", "m", 1_700_000_000)}
    assert [chunk.choices[0].index for chunk in read] == [0, 0, 1, 1, 0, 1]
    assert [chunk.choices[0].delta.role for chunk in read] == ["assistant", None, "assistant", None, None, None]
    assert [chunk.choices[0].delta.content for chunk in read] == ["", "one", "", "two", None, None]
    assert [chunk.choices[0].finish_reason for chunk in read] == [None, None, None, None, "stop", "length"]
    assert all(("usage" in body) is include_usage and body.get("usage") is None for body in bodies)


@pytest.mark.parametrize("include_usage", [True, False])
def test_text_stream(include_usage: bool) -> None:
    chunks = CompletionChunks("cmpl-1", "m", 1_700_000_000, include_usage)
    assert chunks.start(0) == b""
    bodies = payloads(chunks.text(0, "one"), chunks.text(3, "two"), chunks.finish(3, "length"))
    assert [body["object"] for body in bodies] == ["text_completion"] * 3
    assert [body["choices"] for body in bodies] == [
        [{"index": 0, "text": "one", "logprobs": None, "finish_reason": None}],
        [{"index": 3, "text": "two", "logprobs": None, "finish_reason": None}],
        [{"index": 3, "text": "", "logprobs": None, "finish_reason": "length"}],
    ]
    assert all(("usage" in body) is include_usage and body.get("usage") is None for body in bodies)


def test_streamed_thoughts_and_calls() -> None:
    chunks = ChatChunks("a", "m", 1, True)
    bodies = payloads(
        chunks.reasoning(1, "we"),
        chunks.tool_call(1, 0, "call_1", "f"),
        chunks.tool_arguments(1, 0, '{"a"'),
        chunks.tool_call(1, 1, "call_2", "g"),
        chunks.tool_arguments(1, 1, "{}"),
        chunks.finish(1, "tool_calls"),
    )
    read = [ChatCompletionChunk.model_validate_json(json.dumps(body), strict=True) for body in bodies]
    assert {(chunk.choices[0].index, chunk.choices[0].delta.content) for chunk in read} == {(1, None)}
    assert bodies[0]["choices"][0]["delta"] == {"reasoning_content": "we"}
    deltas = [chunk.choices[0].delta.tool_calls for chunk in read]
    assert [[call.to_dict() for call in calls] if calls else None for calls in deltas] == [
        None,
        [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"a"'}}],
        [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}}],
        [{"index": 1, "function": {"arguments": "{}"}}],
        None,
    ]
    assert [chunk.choices[0].finish_reason for chunk in read] == [None] * 5 + ["tool_calls"]
    assert all(body["usage"] is None for body in bodies)


@pytest.mark.parametrize("kind", [ChatChunks, CompletionChunks])
def test_usage_event(kind: type[ChatChunks] | type[CompletionChunks]) -> None:
    (body,) = payloads(kind("a", "m", 1, True).usage(USAGE))
    assert body["choices"] == []
    assert body["usage"] == USAGE.as_dict()
    assert "timings" not in body
    (body,) = payloads(kind("a", "m", 1, True).usage(USAGE, TIMINGS))
    assert body["timings"] == TIMINGS


@pytest.mark.parametrize("kind", [ChatChunks, CompletionChunks])
@pytest.mark.parametrize("include_usage", [True, False])
def test_timings_ride_on_the_last_chunk(kind: type[ChatChunks] | type[CompletionChunks], include_usage: bool) -> None:
    chunks = kind("a", "m", 1, include_usage)
    with_timings, without = payloads(chunks.finish(0, "stop", TIMINGS), chunks.finish(0, "stop"))
    assert with_timings.pop("timings") == TIMINGS
    assert with_timings == without


@pytest.mark.parametrize("stop_string", ["END", '"}\n\n'])
def test_the_stop_string_that_was_met_is_told(stop_string: str) -> None:
    chunks = ChatChunks("id", "m", 1, False)
    met, without = payloads(chunks.finish(0, "stop", None, stop_string), chunks.finish(0, "stop"))
    assert met["choices"][0]["stop_reason"] == stop_string
    assert "stop_reason" not in without["choices"][0]
    whole = chat_completion("id", "m", 1, [Choice("a", "stop", stop_string=stop_string), Choice("b", "stop")], USAGE)
    assert [choice.get("stop_reason") for choice in whole["choices"]] == [stop_string, None]


def test_events_have_only_the_published_keys() -> None:
    chunks = ChatChunks("a", "m", 1, True)
    for body in payloads(chunks.start(0), chunks.text(0, "x"), chunks.finish(0, "stop"), chunks.usage(USAGE)):
        assert set(body) <= set(ChatCompletionChunk.model_fields)
    for body in payloads(CompletionChunks("a", "m", 1, True).text(0, "x")):
        assert set(body) <= set(Completion.model_fields)


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=ascii)
def test_hostile_text_stays_inside_its_event(text: str) -> None:
    for chunks in (ChatChunks(text, text, 1, False), CompletionChunks(text, text, 1, False)):
        (body,) = payloads(chunks.text(0, text))
        choice = body["choices"][0]
        assert choice.get("text", choice.get("delta", {}).get("content")) == text
        assert (body["id"], body["model"]) == (text, text)
    chunks = ChatChunks("a", "m", 1, False)
    thought, call, arguments = payloads(
        chunks.reasoning(0, text), chunks.tool_call(0, 0, text, text), chunks.tool_arguments(0, 0, text)
    )
    assert thought["choices"][0]["delta"]["reasoning_content"] == text
    assert call["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == text
    assert arguments["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] == text


@given(st.text())
def test_any_text_survives(text: str) -> None:
    event = ChatChunks("a", "m", 1, False).text(0, text)
    event.decode("ascii")
    assert len(event.decode().splitlines()) == 2
    (body,) = payloads(event)
    assert body["choices"][0]["delta"]["content"] == text


def test_half_a_character_does_not_break_the_stream() -> None:
    (body,) = payloads(ChatChunks("a", "m", 1, False).text(0, "\ud83d"))
    assert body["choices"][0]["delta"]["content"] == "\ud83d"
