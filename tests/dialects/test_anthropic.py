"""Anthropic's dialect: requests become chat requests, answers the events that its clients expect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.dialects.anthropic.answers import CountTranslation, MessageTranslation
from llmserve.dialects.anthropic.errors import error_object
from llmserve.dialects.anthropic.requests import CountTokensRequest, MessagesRequest
from llmserve.errors import InvalidRequest, UnsupportedParameter
from llmserve.openai import sse
from llmserve.openai.json import dump_json
from llmserve.openai.parse import parse_request
from llmserve.openai.responses import Choice, ToolInvocation
from llmserve.openai.tokens import TokenizeChatRequest
from tests.dialects.streams import (
    DIED,
    broken_stream,
    call_stream,
    cut_call_stream,
    cuts,
    text_stream,
    thought_stream,
    whole,
)

HELLO = {"role": "user", "content": "hi"}
MINIMAL = {"model": "m", "max_tokens": 5, "messages": [HELLO]}
TOOL = {"name": "add", "description": "adds", "input_schema": {"type": "object", "properties": {}}}


def internal(**fields: Any) -> dict[str, Any]:
    """The chat request that a request with these fields means."""
    parsed = parse_request(MessagesRequest, dump_json({**MINIMAL, **fields}))
    return dict(json.loads(parsed.request.internal().canonical()))


def messages(*sent: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return list(internal(messages=list(sent), **fields)["messages"])


# --- requests --------------------------------------------------------------------------------------------------------


def test_the_smallest_request() -> None:
    expected = {"model": "m", "messages": [HELLO], "max_tokens": 5, "reasoning_effort": "none"}
    assert internal() == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 3}, {"temperature": 0.5, "top_p": 0.9, "top_k": 3}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": 1024},
        ),
        ({"thinking": {"type": "adaptive"}}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ({"output_config": {"effort": "high"}}, {"reasoning_effort": "high"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "format", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
    ],
)
def test_fields(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected.items() <= internal(**fields).items()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "add"}, {"tool_choice": {"type": "function", "function": {"name": "add"}}}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"parallel_tool_calls": False}),
    ],
)
def test_tool_choice(choice: dict[str, Any], expected: dict[str, Any]) -> None:
    request = internal(tools=[TOOL], tool_choice=choice)
    assert expected.items() <= request.items()
    function = {"name": "add", "description": "adds", "parameters": TOOL["input_schema"]}
    assert request["tools"] == [{"type": "function", "function": function}]


def test_a_system_message_of_blocks_without_the_clients_own_accounts() -> None:
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cch=1234;"},
        {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief."},
    ]
    assert messages(HELLO, system=system)[0] == {"role": "system", "content": "Be kind.\nBe brief."}
    assert messages(HELLO, system="Be kind.")[0] == {"role": "system", "content": "Be kind."}


def test_calls_results_and_thoughts() -> None:
    use = {"type": "tool_use", "id": "call_a", "name": "add", "input": {"a": 1}}
    sent = messages(
        HELLO,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Wait."},
                use,
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_a", "content": [{"type": "text", "text": "3"}]},
                {"type": "tool_result", "tool_use_id": "call_a", "content": "no", "is_error": True},
                {"type": "text", "text": "well?"},
            ],
        },
    )
    call = {"id": "call_a", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    assert sent[1] == {"role": "assistant", "content": "Wait.", "reasoning_content": "hm", "tool_calls": [call]}
    assert sent[2:] == [
        {"role": "tool", "content": "3", "tool_call_id": "call_a"},
        {"role": "tool", "content": "Error: no", "tool_call_id": "call_a"},
        {"role": "user", "content": "well?"},
    ]


def test_turns_of_one_role_are_joined() -> None:
    assert messages(HELLO, {"role": "user", "content": "there"}) == [{"role": "user", "content": "hi\nthere"}]


def test_an_answer_that_was_begun_is_gone_on_with() -> None:
    request = internal(messages=[HELLO, {"role": "assistant", "content": "The answer is"}])
    assert request["continue_final_message"] is True
    assert request["messages"][-1] == {"role": "assistant", "content": "The answer is"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]},
            "messages[0].content[0]",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "a", "input_schema": {"type": 3}}]}, "tools[0].input_schema.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.function.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"container": "x"}, "container"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        internal(**fields)
    assert caught.value.param == param


def test_what_has_no_effect_and_what_nobody_knows() -> None:
    raw = dump_json({**MINIMAL, "metadata": {"user_id": "x"}, "service_tier": "auto", "unheard_of": 1})
    assert parse_request(MessagesRequest, raw).ignored_fields == ("unheard_of",)
    with pytest.raises(UnsupportedParameter):
        parse_request(MessagesRequest, dump_json({**MINIMAL, "mcp_servers": [{}]}))


def test_what_is_counted_is_the_prompt_of_the_same_messages_sent() -> None:
    tool = {"name": "add", "input_schema": {"type": "object"}}
    fields = {"model": "m", "messages": [HELLO], "system": "Be brief.", "tools": [tool], "tool_choice": {"type": "any"}}
    sent = parse_request(MessagesRequest, dump_json({**fields, "max_tokens": 5, "temperature": 0})).request.internal()
    counted = parse_request(CountTokensRequest, dump_json(fields)).request.counted()
    assert json.loads(counted.canonical()).keys() == {"model", "messages", "tools", "tool_choice", "reasoning_effort"}
    assert counted == TokenizeChatRequest.of(sent)
    answer = dump_json({"count": 10, "max_model_len": 64, "tokens": list(range(10))})
    assert json.loads(CountTranslation("req-1").whole(answer)) == {"input_tokens": 10}


def test_a_schema_that_would_be_refused_is_not_counted() -> None:
    config = {"format": {"type": "json_schema", "schema": {"type": "nonsense"}}}
    fields = {"model": "m", "messages": [HELLO], "output_config": config}
    with pytest.raises(InvalidRequest):
        parse_request(CountTokensRequest, dump_json(fields)).request.counted()


# --- answers ---------------------------------------------------------------------------------------------------------


def translated(events: list[bytes], stops: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The data of the events of an answer, each checked against its name."""
    translation = MessageTranslation("req-1", "m", stops)
    told = b"".join(translation.stream(chunk) for chunk in events)
    found = []
    for event in told.decode().removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events if event["type"] != "ping"]


def blocks(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that a client builds from the events."""
    built: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(built)
            built.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            block = built[event["index"]]
            match event["delta"]:
                case {"type": "text_delta", "text": text}:
                    block["text"] += text
                case {"type": "thinking_delta", "thinking": text}:
                    block["thinking"] += text
                case {"type": "signature_delta", "signature": text}:
                    block["signature"] = text
                case {"type": "input_json_delta", "partial_json": text}:
                    block["json"] += text
    return built


def test_text_however_it_is_cut() -> None:
    for pieces in cuts(text_stream(["Hel", "lo"])):
        events = translated(pieces)
        assert kinds(events) == [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        assert events[0]["message"]["content"] == []
        assert events[0]["message"]["stop_reason"] is None
        assert [event["type"] for event in events].index("ping") == 2
        assert blocks(events)[0]["text"] == "Hello"
        assert events[-2] == {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 6,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 4,
                "output_tokens": 5,
            },
        }


@pytest.mark.parametrize(
    ("reason", "stop_string", "expected"),
    [
        ("length", None, ("max_tokens", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", "not asked for", ("end_turn", None)),
    ],
)
def test_why_it_ends(reason: Any, stop_string: str | None, expected: tuple[str, str | None]) -> None:
    delta = translated(text_stream(["x"], reason, stop_string), ("END",))[-2]["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == expected
    message = json.loads(
        MessageTranslation("req-1", "m", ("END",)).whole(whole(Choice("x", reason, stop_string=stop_string)))
    )
    assert (message["stop_reason"], message["stop_sequence"]) == expected


def test_thoughts_come_in_a_block_of_their_own_and_can_be_sent_back() -> None:
    first, second = blocks(translated(thought_stream()))
    assert (first["type"], first["thinking"]) == ("thinking", "let me see")
    assert first["signature"]
    assert (second["type"], second["text"]) == ("text", "42")


def test_calls() -> None:
    events = translated(call_stream())
    text, first, second = blocks(events)
    assert text["text"] == "Wait."
    assert (first["type"], first["id"], first["name"], first["input"]) == ("tool_use", "call_a", "add", {})
    assert json.loads(first["json"]) == {"a": 1, "b": 2}
    assert (second["id"], second["json"]) == ("call_b", "{}")
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    starts = kinds(events).count("content_block_start")
    assert starts == kinds(events).count("content_block_stop") == 3


def test_a_call_that_is_cut_off() -> None:
    events = translated(cut_call_stream())
    assert blocks(events)[0]["json"] == '{"a": 1,'
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"
    cut = Choice("", "length", None, (ToolInvocation("call_a", "add", '{"a": 1,'),))
    message = json.loads(MessageTranslation("req-1", "m", ()).whole(whole(cut)))
    assert message["content"] == [{"type": "text", "text": '{"a": 1,'}]


def test_a_whole_answer() -> None:
    call = ToolInvocation("call_a", "add", '{"a": 1}')
    message = json.loads(MessageTranslation("req-1", "m", ()).whole(whole(Choice("hi", "tool_calls", "hm", (call,)))))
    assert message["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "msg_1"},
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "call_a", "name": "add", "input": {"a": 1}},
    ]
    assert (message["id"], message["role"], message["stop_reason"]) == ("msg_1", "assistant", "tool_use")


def test_a_worker_that_dies_on_the_way() -> None:
    events = translated(broken_stream())
    assert events[-1]["type"] == "error"
    assert events[-1]["error"] == {"type": "api_error", "message": DIED.message}
    assert "message_stop" not in kinds(events)


def test_a_worker_that_refuses_before_anything_was_written() -> None:
    events = translated([sse.error_event(InvalidRequest("no"))])
    assert events == [error_object(InvalidRequest("no").body()["error"], "req-1")]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_errors(status: int, kind: str) -> None:
    body = json.loads(MessageTranslation("req-1", "m", ()).error(status, b'{"error": {"message": "why", "type": "x"}}'))
    assert body == {"type": "error", "error": {"type": kind, "message": "why"}, "request_id": "req-1"}
