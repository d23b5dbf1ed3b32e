"""Anthropic's Messages on both engines: the same blocks, the same events, the same errors."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.contract.asked import CLOCK, QUESTION, SCHEMA, SYSTEM_TEXT, TOO_LONG, WEATHER, follows, named_events
from tests.contract.servers import Server

TOOLS = [
    {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
    for tool in (WEATHER, CLOCK)
]
WARM = "How warm is it in Paris, in celsius?"
NAMED = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}


def ask(server: Server, said: Any, **fields: Any) -> httpx2.Response:
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
    request = {"model": server.model, "messages": messages, "temperature": 0, "max_tokens": 16, "system": SYSTEM_TEXT}
    return server.http.post("/v1/messages", json={**request, **fields}, headers={"anthropic-version": "2023-06-01"})


def message(server: Server, said: Any, **fields: Any) -> dict[str, Any]:
    answer = ask(server, said, **fields)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    assert (told["type"], told["role"], told["model"]) == ("message", "assistant", server.model)
    return told


def text_of(told: dict[str, Any]) -> str:
    (block,) = told["content"]
    assert block["type"] == "text"
    return str(block["text"])


def refused(answer: httpx2.Response, status: int, kind: str) -> str:
    """The message of an error, which must have this status and type, and the dialect's shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"type", "error", "request_id"}
    assert body["error"].keys() == {"type", "message"}
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    return str(body["error"]["message"])


def events_of(server: Server, said: Any, **fields: Any) -> list[dict[str, Any]]:
    return named_events(ask(server, said, stream=True, **fields))


def test_a_whole_message(server: Server) -> None:
    told = message(server, QUESTION)
    assert "Paris" in text_of(told)
    assert (told["stop_reason"], told["stop_sequence"]) == ("end_turn", None)
    usage = told["usage"]
    assert 0 < usage["output_tokens"] <= 16
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] > 10


def test_the_events_of_a_message_build_it(server: Server) -> None:
    whole = message(server, QUESTION)
    events = events_of(server, QUESTION)
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "content_block_start", "ping"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    deltas = [event for event in events if event["type"] == "content_block_delta"]
    # Pings may come at any time.
    assert {kind for kind in kinds[3:-3] if kind != "ping"} == {"content_block_delta"}
    assert events[0]["message"]["content"] == []
    assert "".join(event["delta"]["text"] for event in deltas) == text_of(whole)
    ending = events[-2]
    assert ending["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert ending["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_an_answer_says_why_it_ended(server: Server) -> None:
    whole = text_of(message(server, QUESTION))
    stops = ["never", "Paris"]
    stopped = message(server, QUESTION, stop_sequences=stops)
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "Paris")
    assert text_of(stopped) == whole.partition("Paris")[0]
    ending = events_of(server, QUESTION, stop_sequences=stops)[-2]
    assert ending["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "Paris"}
    cut = message(server, QUESTION, max_tokens=2)
    assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 2)


def test_the_last_message_is_gone_on_with(server: Server) -> None:
    said = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "The capital of France is"}]
    assert text_of(message(server, said, max_tokens=3)).startswith(" Paris")


def test_blocks_of_text_are_one_text(server: Server) -> None:
    blocks = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    system = [{"type": "text", "text": SYSTEM_TEXT}]
    assert text_of(message(server, blocks, system=system)) == text_of(message(server, QUESTION))


@pytest.mark.parametrize("thinking", [{"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}])
def test_a_model_that_does_not_think_answers_all_the_same(server: Server, thinking: dict[str, Any]) -> None:
    assert "Paris" in text_of(message(server, QUESTION, thinking=thinking))


def test_an_answer_follows_a_schema(server: Server) -> None:
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    told = message(server, "Describe Paris as JSON.", output_config=form, max_tokens=60)
    assert told["stop_reason"] == "end_turn"
    assert follows(json.loads(text_of(told)), SCHEMA)


# --- tools -----------------------------------------------------------------------------------------------------------


def test_a_named_tool_is_used_and_its_result_read(server: Server) -> None:
    said = [{"role": "user", "content": WARM}]
    told = message(server, said, tools=TOOLS, tool_choice=NAMED, max_tokens=100)
    assert told["stop_reason"] == "tool_use"
    (use,) = told["content"]
    assert (use["type"], use["name"]) == ("tool_use", "get_weather")
    assert follows(use["input"], WEATHER["parameters"])
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "21 degrees"}
    said += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    after = message(server, said, tools=TOOLS, tool_choice={"type": "none"})
    assert text_of(after).strip()
    assert after["stop_reason"] in {"end_turn", "max_tokens"}


def test_a_streamed_use_is_the_same_use(server: Server) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": NAMED, "max_tokens": 100}
    (whole,) = message(server, WARM, **fields)["content"]
    events = events_of(server, WARM, **fields)
    (started,) = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert started == {"type": "tool_use", "id": started["id"], "name": "get_weather", "input": {}}
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert {delta["type"] for delta in deltas} == {"input_json_delta"}
    assert json.loads("".join(delta["partial_json"] for delta in deltas)) == whole["input"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_any_tool_is_used_where_one_has_to_be(server: Server) -> None:
    choice = {"type": "any", "disable_parallel_tool_use": True}
    told = message(server, "What time is it in Rome?", tools=TOOLS, tool_choice=choice, max_tokens=100)
    assert told["stop_reason"] == "tool_use"
    (use,) = told["content"]
    schemas = {tool["name"]: tool["parameters"] for tool in (WEATHER, CLOCK)}
    assert use["type"] == "tool_use"
    assert follows(use["input"], schemas[use["name"]])


# --- counting and models ---------------------------------------------------------------------------------------------


def test_a_prompt_is_counted(server: Server) -> None:
    def counted(**fields: Any) -> int:
        body = {"model": server.model, "messages": [{"role": "user", "content": QUESTION}], **fields}
        return int(server.http.post("/v1/messages/count_tokens", json=body).json()["input_tokens"])

    usage = message(server, QUESTION)["usage"]
    assert counted(system=SYSTEM_TEXT) == usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert counted() != counted(system=f"{SYSTEM_TEXT} {SYSTEM_TEXT}")


def test_models_are_listed(server: Server) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    listed = server.http.get("/v1/models", headers=headers).json()
    assert server.model in {model["id"] for model in listed["data"]}
    one = server.http.get(f"/v1/models/{server.model}", headers=headers).json()
    assert (one["type"], one["id"]) == ("model", server.model)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_what_exceeds_the_context_is_refused(server: Server, stream: bool) -> None:
    assert "context is" in refused(ask(server, TOO_LONG, stream=stream), 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "no_such_tool"}}, "tool_choice"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: Server, fields: dict[str, Any], named: str) -> None:
    assert named in refused(ask(server, "Hi", **fields), 400, "invalid_request_error")


def test_a_schema_that_cannot_be_followed_is_refused(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "no such type"}}}
    form = {"format": {"type": "json_schema", "schema": schema}}
    refused(ask(server, "Hi", output_config=form), 400, "invalid_request_error")


def test_an_unknown_model_is_not_found(server: Server) -> None:
    assert "no-such-model" in refused(ask(server, "Hi", model="no-such-model:1b"), 404, "not_found_error")
