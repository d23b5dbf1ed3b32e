"""Streams of vLLM 0.32, byte for byte as it wrote them, in the shape all engines share."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.vllm.events import EventTranslator
from llmserve.vllm.served_model import ServedModel

MODEL = ServedModel("smollm2:local", context=4096)
HEAD = (
    'data: {"id":"chatcmpl-req-1","object":"chat.completion.chunk","created":1795553221,"model":"smollm2:local",'
    '"choices":['
)
TEXT_HEAD = (
    'data: {"id":"cmpl-req-1","object":"text_completion","created":1795553224,"model":"smollm2:local","choices":['
)
ROLE = (
    HEAD + '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
    '"prompt_token_ids":null,"prompt_text":null}\n\n'
)
LAST = (
    HEAD + '{"index":0,"delta":{"content":" Paris"},"logprobs":null,"finish_reason":"length","stop_reason":null,'
    '"token_ids":null}]}\n\n'
)
USAGE = (
    HEAD + '],"usage":{"prompt_tokens":37,"total_tokens":43,"completion_tokens":6,'
    '"prompt_tokens_details":{"cached_tokens":0,"created_cache_tokens":0}}}\n\n'
)
DONE = "data: [DONE]\n\n\n"


def content(text: str, field: str = "content") -> str:
    delta = f'{{"{field}":{json.dumps(text)}}}'
    return HEAD + f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null,"token_ids":null}}]}}\n\n'


def piece(text: str, index: int = 0) -> str:
    return TEXT_HEAD + (
        f'{{"index":{index},"text":{json.dumps(text)},"logprobs":null,"finish_reason":null,"stop_reason":null,'
        '"prompt_token_ids":null,"token_ids":null}]}\n\n'
    )


def translated(stream: str, *, chat: bool = True, cut: int | None = None) -> bytes:
    translator = EventTranslator("req-1", MODEL, chat=chat, prompt_field="messages")
    data = stream.encode()
    step = cut or len(data)
    return b"".join(translator.feed(data[start : start + step]) for start in range(0, len(data), step))


def bodies(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: {")]


def deltas(stream: bytes) -> list[Any]:
    return [choice["delta"] for body in bodies(stream) for choice in body["choices"]]


def test_a_chat_stream() -> None:
    stream = translated(ROLE + content("The") + content(" capital") + LAST + USAGE + DONE)
    assert stream.endswith(b"data: [DONE]\n\n")
    first, second, third, last, usage = bodies(stream)
    head = {
        "id": "req-1",
        "object": "chat.completion.chunk",
        "created": 1795553221,
        "model": "smollm2:local",
        "system_fingerprint": None,
    }
    for body in (first, second, third, last, usage):
        assert {key: body[key] for key in head} == head
    assert deltas(stream) == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "The"},
        {"content": " capital"},
        {"content": " Paris"},
    ]
    assert [body["choices"][0]["finish_reason"] for body in (first, second, third, last)] == [
        None,
        None,
        None,
        "length",
    ]
    assert second.keys() == third.keys() == head.keys() | {"choices"}
    assert second["choices"][0].keys() == third["choices"][0].keys() == {"index", "delta", "logprobs", "finish_reason"}
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 6)


def test_a_greedy_stream_is_told_as_often_as_it_was_asked_for() -> None:
    translator = EventTranslator("req-1", MODEL, chat=True, prompt_field="messages", copies=2)
    stream = translator.feed((ROLE + content("The") + content(" sea") + LAST + USAGE + DONE).encode())
    *events, usage = bodies(stream)
    assert [[choice["index"] for choice in event["choices"]] for event in events] == [[0, 1]] * 4
    for index in (0, 1):
        assert [event["choices"][index]["delta"].get("content") for event in events] == ["", "The", " sea", " Paris"]
    assert usage["usage"]["completion_tokens"] == 12
    assert stream.endswith(b"data: [DONE]\n\n")


def test_a_stream_tells_the_stop_string_that_ended_it() -> None:
    for chat, event in ((True, LAST), (False, piece("a").replace('"finish_reason":null', '"finish_reason":"length"'))):
        ended = event.replace('"length","stop_reason":null', '"stop","stop_reason":"END"')
        assert ended != event
        (choice,) = bodies(translated(ended + DONE, chat=chat))[0]["choices"]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "END")


def test_the_timings_of_a_stream_are_in_its_last_event() -> None:
    metrics = ',"metrics":{"time_to_first_token_ms":50.0,"generation_time_ms":500.0}}\n\n'
    *_, usage = bodies(translated(ROLE + LAST + USAGE.replace("}\n\n", metrics) + DONE))
    assert usage["timings"]["prompt_ms"] == 50.0
    assert usage["timings"]["predicted_per_second"] == 10.0
    assert "timings" not in bodies(translated(ROLE + LAST + USAGE + DONE))[-1]


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_a_stream_may_arrive_cut_anywhere(cut: int) -> None:
    stream = ROLE + content("The") + content(" ça") + content('"},') + LAST + USAGE + DONE
    assert translated(stream, cut=cut) == translated(stream)


@pytest.mark.parametrize(
    "text",
    [
        'a","b',
        '{"index":0,"delta":{"reasoning":"x"}',
        '"delta":{"reasoning":"',
        '","logprobs":null,"finish_reason":null',
        "\n\ndata: [DONE]\n\n",
        '"choices":[',
        "\x00",
        "\\",
        "\u2028 \U0001f600",
    ],
)
def test_no_text_of_a_model_can_imitate_a_form(text: str) -> None:
    """Whether an event is copied or parsed, its text arrives as it was."""
    events = content("first") + content(text) + content("middle") + content(text, "reasoning") + content("last")
    found = deltas(translated(ROLE + events + DONE))
    assert found[2] == {"content": text}
    assert found[4] == {"reasoning_content": text}
    assert [found[1], found[3], found[5]] == [{"content": "first"}, {"content": "middle"}, {"content": "last"}]


def test_copied_and_parsed_events_are_the_same_bytes() -> None:
    first, second = content("same"), content("same")
    events = translated(ROLE + first + second).split(b"\n\n")
    assert events[1] == events[2]


def test_thoughts_have_the_name_that_clients_know() -> None:
    stream = translated(ROLE + content("a", "reasoning") + content("b", "reasoning") + content("c"))
    assert deltas(stream)[1:] == [{"reasoning_content": "a"}, {"reasoning_content": "b"}, {"content": "c"}]


def test_a_call_in_pieces_ends_as_a_call() -> None:
    def event(call: str) -> str:
        delta = f'{{"content":null,"tool_calls":[{call}]}}'
        return HEAD + f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null,"token_ids":null}}]}}\n\n'

    end = HEAD + '{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":null}]}\n\n'
    start = event('{"id":"call-1","type":"function","index":0,"function":{"name":"weather"}}')
    more = event('{"index":0,"function":{"arguments":"{}"}}')
    stream = translated(ROLE + start + more + end + DONE)
    assert deltas(stream)[1:] == [
        {
            "tool_calls": [
                {"index": 0, "id": "call-1", "type": "function", "function": {"name": "weather", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert bodies(stream)[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_text_stream_of_several_choices() -> None:
    stream = translated(piece("a") + piece("b", 1) + piece("c") + DONE, chat=False)
    choices = [body["choices"][0] for body in bodies(stream)]
    assert [(choice["index"], choice["text"]) for choice in choices] == [(0, "a"), (1, "b"), (0, "c")]
    assert all(choice.keys() == {"index", "text", "logprobs", "finish_reason"} for choice in choices)


def test_an_error_ends_the_stream_without_the_end_mark() -> None:
    error = '{"error":{"message":"EngineCore encountered an issue.","type":"InternalServerError","code":500}}'
    stream = translated(ROLE + content("The") + f"data: {error}\n\n" + DONE)
    assert b"[DONE]" not in stream
    assert bodies(stream)[-1]["error"]["code"] == "worker_error"
    assert b"EngineCore" not in stream


def test_comments_are_left_to_the_gateway() -> None:
    assert translated(": ping\n\n" + ROLE) == translated(ROLE)


@pytest.mark.parametrize("data", ['{"choices":[{}]}', "{", "[]", '{"choices":7}', "null"])
def test_events_without_sense_end_the_stream(data: str) -> None:
    stream = translated(f"{ROLE}data: {data}\n\n{content('late')}{DONE}")
    assert b"late" not in stream
    assert bodies(stream)[-1]["error"]["code"] in {"worker_error", "worker_protocol_error"}
