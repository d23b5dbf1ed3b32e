"""The Responses API: items become messages, and answers the events that OpenAI's own client reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import InputTokenCountResponse

from llmserve.dialects.responses.answers import CountTranslation, ResponseTranslation
from llmserve.dialects.responses.items import internal_messages, shown_items
from llmserve.dialects.responses.requests import InputTokensRequest, ResponsesRequest
from llmserve.dialects.responses.response import new_response
from llmserve.errors import InvalidRequest
from llmserve.openai import sse
from llmserve.openai.json import dump_json
from llmserve.openai.parse import parse_request
from llmserve.openai.responses import Choice, ToolInvocation
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

TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}


def request(**fields: Any) -> ResponsesRequest:
    return parse_request(ResponsesRequest, dump_json({"model": "m", "input": "hi", **fields})).request


def internal(*, stream: bool = False, **fields: Any) -> dict[str, Any]:
    asked = request(**fields)
    return dict(json.loads(asked.internal(shown_items(asked.input, "resp_1"), stream=stream).canonical()))


# --- requests --------------------------------------------------------------------------------------------------------


def test_the_smallest_request() -> None:
    assert internal() == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0, "top_p": 0.5, "top_k": 3}, {"temperature": 0.0, "top_p": 0.5, "top_k": 3}),
        ({"max_output_tokens": 7}, {"max_tokens": 7}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        ({"top_logprobs": 2, "include": ["message.output_text.logprobs"]}, {"logprobs": True, "top_logprobs": 2}),
        ({"tools": [TOOL], "tool_choice": "required"}, {"tool_choice": "required", "parallel_tool_calls": True}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "add"}},
            {"tool_choice": {"type": "function", "function": {"name": "add"}}},
        ),
    ],
)
def test_fields(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected.items() <= internal(**fields).items()


def test_tools() -> None:
    function = {"name": "add", "parameters": {"type": "object"}, "strict": True}
    assert internal(tools=[TOOL])["tools"] == [{"type": "function", "function": function}]


def test_what_is_counted_is_the_prompt_of_the_same_input_sent() -> None:
    fields = {"instructions": "Be brief.", "tools": [TOOL], "tool_choice": "required", "reasoning": {"effort": "low"}}
    asked = parse_request(InputTokensRequest, dump_json({"model": "m", "input": "hi", **fields})).request
    counted = json.loads(asked.counted(shown_items(asked.input, "resp_1")).canonical())
    sent = internal(**fields, max_output_tokens=5, temperature=0)
    assert counted == {name: sent[name] for name in counted}
    assert counted.keys() == {"model", "messages", "tools", "tool_choice", "reasoning_effort"}
    answer = dump_json({"count": 10, "max_model_len": 64, "tokens": list(range(10))})
    told = json.loads(CountTranslation().whole(answer))
    assert InputTokenCountResponse.model_validate(told) == InputTokenCountResponse(
        input_tokens=10, object="response.input_tokens"
    )


def test_items_become_messages() -> None:
    items = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "1+2?"}, {"type": "input_text", "text": "Now!"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
        {"type": "function_call", "call_id": "call_a", "name": "add", "arguments": "{}"},
        {"type": "function_call", "call_id": "call_b", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_a", "output": "3"},
        {"type": "function_call_output", "call_id": "call_b", "output": [{"type": "input_text", "text": "noon"}]},
        {"role": "assistant", "content": "3, at noon"},
        {"role": "user", "content": "Thanks."},
    ]
    sent = internal(input=items, instructions="Be brief.")["messages"]
    assert [message["role"] for message in sent] == [
        *("system", "system", "user", "assistant", "tool", "tool", "assistant", "user")
    ]
    assert sent[0]["content"] == "Be brief."
    assert sent[2]["content"] == "1+2?\nNow!"
    assert (sent[3]["content"], sent[3]["reasoning_content"]) == ("Wait.", "hm")
    assert [call["id"] for call in sent[3]["tool_calls"]] == ["call_a", "call_b"]
    assert [(result["tool_call_id"], result["content"]) for result in sent[4:6]] == [
        ("call_a", "3"),
        ("call_b", "noon"),
    ]


def test_items_are_shown_with_ids_that_stay() -> None:
    asked = request(input=[{"role": "user", "content": "hi"}, {"id": "mine", "role": "assistant", "content": "x"}])
    first, second = shown_items(asked.input, "resp_1")
    assert (first["id"], second["id"]) == ("msg_1_i0", "mine")
    assert shown_items(asked.input, "resp_1") == [first, second]
    assert [part["type"] for part in (first["content"][0], second["content"][0])] == ["input_text", "output_text"]


def test_thoughts_that_nothing_follows_are_dropped() -> None:
    item = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    assert internal_messages([item, {"type": "message", "role": "user", "content": [{"text": "hi"}]}]) == [
        {"role": "user", "content": "hi"}
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
        ({"input": [{"id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"background": True, "store": False}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, None),
        ({"tool_choice": {"type": "hosted"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": 3}}}}, "text.format.schema.type"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str | None) -> None:
    if param is None:
        assert "tool_choice" not in internal(**fields)
        return
    with pytest.raises(InvalidRequest) as caught:
        internal(**fields)
    assert caught.value.param == param


# --- answers, as OpenAI's own client reads them ----------------------------------------------------------------------


def translation(**fields: Any) -> ResponseTranslation:
    return ResponseTranslation(new_response(request(**fields), "resp_1", 1))


def told(events: Iterable[bytes], **fields: Any) -> bytes:
    translated = translation(**fields)
    return b"".join(translated.stream(chunk) for chunk in events)


def client(answer: bytes, media_type: str = "text/event-stream") -> openai.OpenAI:
    def respond(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=answer, headers={"content-type": media_type})

    transport = httpx2.Client(transport=httpx2.MockTransport(respond))
    return openai.OpenAI(api_key="k", base_url="http://test/v1", http_client=transport, max_retries=0)


def read(events: Iterable[bytes], **fields: Any) -> tuple[list[Any], Any]:
    """The client's events, and its final response where it has come to one."""
    with client(told(events, **fields)).responses.stream(model="m", input="hi") as stream:
        found = list(stream)
        final = stream.get_final_response() if found[-1].type == "response.completed" else None
    assert [event.sequence_number for event in found] == list(range(len(found)))
    return found, final


def test_text_however_it_is_cut() -> None:
    for pieces in cuts(text_stream(["Hel", "lo"])):
        events, final = read(pieces)
        assert [event.type.removeprefix("response.") for event in events] == [
            *("created", "in_progress", "output_item.added", "content_part.added"),
            *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done"),
            *("output_item.done", "completed"),
        ]
        assert (final.output_text, final.status, final.id) == ("Hello", "completed", "resp_1")
        assert (final.usage.input_tokens, final.usage.output_tokens, final.usage.total_tokens) == (10, 5, 15)
        assert final.usage.input_tokens_details.cached_tokens == 4
        assert final.usage.output_tokens_details.reasoning_tokens == 2
        assert {event.item_id for event in events if hasattr(event, "item_id")} == {final.output[0].id}


def test_thoughts() -> None:
    events, final = read(thought_stream())
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.output[0].content[0].text == "let me see"
    assert [event.delta for event in events if event.type == "response.reasoning_text.delta"] == ["let me ", "see"]


def test_calls() -> None:
    events, final = read(call_stream())
    assert [(item.type, item.status) for item in final.output] == [
        *(("message", "completed"), ("function_call", "completed"), ("function_call", "completed"))
    ]
    assert json.loads(final.output[1].arguments) == {"a": 1, "b": 2}
    assert (final.output[2].call_id, final.output[2].name) == ("call_b", "now")
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.output_index for event in done] == [1, 2]


@pytest.mark.parametrize("stream", [text_stream(["x"], "length"), cut_call_stream()], ids=["text", "call"])
def test_the_limit_of_tokens(stream: list[bytes]) -> None:
    events, _ = read(stream)
    last = events[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output[0].status == "incomplete"


def test_a_worker_that_dies_on_the_way() -> None:
    events, _ = read(broken_stream())
    last = events[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert (last.response.error.code, last.response.error.message) == ("server_error", DIED.message)
    assert last.response.output[0].content[0].text == "Hel"


def test_a_worker_that_refuses_a_schema() -> None:
    events, _ = read([sse.error_event(InvalidRequest("the schema cannot be enforced", param="text"))])
    assert [event.type for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert "schema" in events[-1].response.error.message


def test_silence_begins_the_response_and_is_then_a_comment() -> None:
    translated = translation()
    assert translated.keep_alive().count(b"event: ") == 2
    assert translated.keep_alive() == sse.KEEP_ALIVE
    events = translated.stream(b"".join(text_stream(["x"])))
    assert b"response.created" not in events
    assert b'"sequence_number":2' in events


def test_a_cancelled_response_stays_as_it_is() -> None:
    translated = translation()
    translated.stream(b"".join(text_stream(["Hel"])[:2]))
    translated.cancel()
    assert translated.response["status"] == "cancelled"
    assert translated.failed(DIED.body()["error"]) == b""
    assert translated.response["output"][0]["content"][0]["text"] == "Hel"


def test_a_whole_answer_is_what_the_stream_ends_with() -> None:
    call = ToolInvocation("call_a", "add", '{"a": 1}')
    body = translation(metadata={"k": "v"}).whole(whole(Choice("hi", "tool_calls", "hm", (call,))))
    response = client(body, "application/json").responses.create(model="m", input="hi")
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert (response.output_text, response.status, response.metadata) == ("hi", "completed", {"k": "v"})


def test_in_the_background_it_is_queued_first() -> None:
    events, _ = read(text_stream(["x"]), background=True)
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event.response.status for event in events[:3]] == ["queued", "queued", "in_progress"]
