"""OpenAI's Responses on both engines: the same items, the same events, the same errors."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.contract.asked import CLOCK, QUESTION, SCHEMA, SYSTEM_TEXT, TOO_LONG, WEATHER, follows, named_events
from tests.contract.servers import Server
from tests.support import until

TOOLS = [{"type": "function", **tool} for tool in (WEATHER, CLOCK)]
NAMED = {"type": "function", "name": "get_weather"}
DELTA, DONE = "response.output_text.delta", "response.output_text.done"


def ask(server: Server, asked: Any, **fields: Any) -> httpx2.Response:
    request = {"model": server.model, "input": asked, "temperature": 0, "max_output_tokens": 16, "store": False}
    return server.http.post("/v1/responses", json={**request, "instructions": SYSTEM_TEXT, **fields})


def respond(server: Server, asked: Any, **fields: Any) -> dict[str, Any]:
    answer = ask(server, asked, **fields)
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


def streamed(server: Server, asked: Any, **fields: Any) -> list[dict[str, Any]]:
    events = named_events(ask(server, asked, stream=True, **fields))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def text_of(response: dict[str, Any]) -> str:
    """The text of the only item, a message of one part."""
    (item,) = response["output"]
    assert (item["type"], item["role"]) == ("message", "assistant")
    (part,) = item["content"]
    assert part["type"] == "output_text"
    return str(part["text"])


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


# --- text ------------------------------------------------------------------------------------------------------------


def test_a_whole_response(server: Server) -> None:
    response = respond(server, QUESTION)
    assert (response["object"], response["status"], response["model"]) == ("response", "completed", server.model)
    assert (response["error"], response["incomplete_details"]) == (None, None)
    assert "Paris" in text_of(response)
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert 0 < usage["output_tokens"] <= 16
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}


def test_the_events_of_a_response_build_it(server: Server) -> None:
    whole = respond(server, QUESTION)
    events = streamed(server, QUESTION)
    kinds = [event["type"] for event in events]
    begin = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    end = [DONE, "response.content_part.done", "response.output_item.done", "response.completed"]
    assert (kinds[:4], kinds[-4:]) == (begin, end)
    assert set(kinds[4:-4]) == {DELTA}
    text = "".join(event["delta"] for event in of_type(events, DELTA))
    response = events[-1]["response"]
    assert text == of_type(events, DONE)[0]["text"] == text_of(response) == text_of(whole)
    assert response["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_a_response_that_is_cut_off_is_incomplete(server: Server) -> None:
    response = respond(server, QUESTION, max_output_tokens=2)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == 2
    last = streamed(server, QUESTION, max_output_tokens=2)[-1]
    assert (last["type"], text_of(last["response"])) == ("response.incomplete", text_of(response))


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_follows_a_schema(server: Server, stream: bool) -> None:
    form = {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}}
    fields: dict[str, Any] = {"text": form, "max_output_tokens": 60}
    if stream:
        response = streamed(server, "Describe Paris as JSON.", **fields)[-1]["response"]
    else:
        response = respond(server, "Describe Paris as JSON.", **fields)
    assert response["status"] == "completed"
    assert follows(json.loads(text_of(response)), SCHEMA)


def test_log_probabilities_belong_to_the_text(server: Server) -> None:
    fields: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = respond(server, QUESTION, **fields)
    entries = response["output"][0]["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in entries) == text_of(response)
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
    events = streamed(server, QUESTION, **fields)
    told = [entry["token"] for event in of_type(events, DELTA) for entry in event["logprobs"]]
    assert told == [entry["token"] for entry in entries]


# --- functions -------------------------------------------------------------------------------------------------------


def test_a_function_is_called_and_its_output_read(server: Server) -> None:
    question = {"role": "user", "content": "How warm is it in Paris, in celsius?"}
    tools: dict[str, Any] = {"tools": TOOLS, "parallel_tool_calls": False}
    response = respond(server, [question], tool_choice=NAMED, max_output_tokens=100, **tools)
    (call,) = response["output"]
    assert (response["status"], call["type"], call["name"]) == ("completed", "function_call", "get_weather")
    assert follows(json.loads(call["arguments"]), WEATHER["parameters"])
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "21 degrees"}
    after = respond(server, [question, call, output], tool_choice="none", **tools)
    assert text_of(after).strip()
    unread = respond(server, [question], tool_choice="none", max_output_tokens=1, **tools)
    assert after["usage"]["input_tokens"] > unread["usage"]["input_tokens"]


def test_a_streamed_call_is_the_same_call(server: Server) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": NAMED, "parallel_tool_calls": False}
    question = "How warm is it in Paris, in celsius?"
    (whole,) = respond(server, question, max_output_tokens=100, **fields)["output"]
    events = streamed(server, question, max_output_tokens=100, **fields)
    (added,) = of_type(events, "response.output_item.added")
    assert (added["item"]["name"], added["item"]["arguments"]) == ("get_weather", "")
    arguments = "".join(event["delta"] for event in of_type(events, "response.function_call_arguments.delta"))
    (done,) = of_type(events, "response.function_call_arguments.done")
    (call,) = events[-1]["response"]["output"]
    assert arguments == done["arguments"] == call["arguments"]
    assert json.loads(arguments) == json.loads(whole["arguments"])
    assert call["call_id"] == added["item"]["call_id"]


def test_a_call_that_is_demanded_is_made(server: Server) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    (call,) = respond(server, "What time is it in Rome?", max_output_tokens=100, **fields)["output"]
    schemas = {tool["name"]: tool["parameters"] for tool in (WEATHER, CLOCK)}
    assert call["type"] == "function_call"
    assert follows(json.loads(call["arguments"]), schemas[call["name"]])


# --- kept responses --------------------------------------------------------------------------------------------------


def test_a_kept_response_is_gone_on_with(server: Server) -> None:
    first = respond(server, QUESTION, store=True)
    assert server.http.get(f"/v1/responses/{first['id']}").json()["output"] == first["output"]
    second = respond(server, "And of Italy?", previous_response_id=first["id"])
    said = {"role": "assistant", "content": text_of(first)}
    users = [{"role": "user", "content": text} for text in (QUESTION, "And of Italy?")]
    stated = respond(server, [users[0], said, users[1]])
    assert second["usage"]["input_tokens"] == stated["usage"]["input_tokens"]
    assert text_of(second) == text_of(stated)
    assert server.http.delete(f"/v1/responses/{first['id']}").json()["deleted"] is True
    assert ask(server, "Hi", previous_response_id=first["id"]).status_code == 404


def test_a_response_in_the_background_is_written(server: Server) -> None:
    queued = respond(server, QUESTION, store=True, background=True)
    assert (queued["status"], queued["output"]) == ("queued", [])

    def kept() -> dict[str, Any]:
        response: dict[str, Any] = server.http.get(f"/v1/responses/{queued['id']}").json()
        return response

    until(lambda: kept()["status"] not in {"queued", "in_progress"}, seconds=60)
    assert text_of(kept()) == text_of(respond(server, QUESTION))


def test_a_cancelled_response_ends(server: Server) -> None:
    queued = respond(server, "Hi", store=True, background=True, max_output_tokens=3000, ignore_eos=True)
    until(lambda: server.open_requests() == 1, seconds=20)
    assert server.openai.responses.cancel(queued["id"]).status == "cancelled"
    until(lambda: server.open_requests() == 0, seconds=5)
    assert server.http.get(f"/v1/responses/{queued['id']}").json()["status"] == "cancelled"


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_what_exceeds_the_context_is_refused(server: Server, stream: bool) -> None:
    answer = ask(server, TOO_LONG, stream=stream)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "context_length_exceeded")
    assert "context is" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": []}, "input"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"background": True}, "background"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server: Server, fields: dict[str, Any], param: str) -> None:
    answer = ask(server, "Hi", **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_schema_that_cannot_be_followed_is_refused(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "no such type"}}}
    answer = ask(server, "Hi", text={"format": {"type": "json_schema", "name": "x", "schema": schema}})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_an_unknown_model_is_not_found(server: Server) -> None:
    answer = ask(server, "Hi", model="no-such-model:1b")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
