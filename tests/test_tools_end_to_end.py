"""The official client and tools against `llmserve serve` with the starter model, whose template knows no tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_end_to_end import ServedModel

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 5}},
            "required": ["city"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "Get the current time"}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
QUESTION = "What is the weather in Rome?"


@pytest.fixture(scope="module")
def served(starter_home: Path) -> Iterator[ServedModel]:
    server = ServedModel(starter_home)
    yield server
    assert server.stop() == 0


def called(served: ServedModel, **fields: Any) -> tuple[str, dict[str, Any], str]:
    """Name, arguments and id of the only call."""
    answer = served.chat(QUESTION, tools=[WEATHER, TIME], parallel_tool_calls=False, max_tokens=80, **fields)
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    return call.function.name, json.loads(call.function.arguments), call.id


def test_the_model_calls_what_it_has_to(served: ServedModel) -> None:
    name, arguments, _ = called(served, tool_choice=NAMED)
    assert name == "get_weather"
    assert "Rome" in arguments["city"]
    assert called(served, tool_choice="required")[0] in {"get_weather", "get_time"}


def test_streamed_it_is_the_same_call(served: ServedModel) -> None:
    expected = called(served, tool_choice=NAMED)
    request: dict[str, Any] = {"tools": [WEATHER, TIME], "tool_choice": NAMED, "max_tokens": 80}
    pieces = [
        call
        for chunk in served.chat(QUESTION, stream=True, **request)
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
    ]
    assert {call.index for call in pieces} == {0}
    assert pieces[0].function.name == expected[0]
    assert json.loads("".join(call.function.arguments or "" for call in pieces)) == expected[1]


def test_the_model_goes_on_from_a_result(served: ServedModel) -> None:
    _, arguments, identity = called(served, tool_choice=NAMED)
    function = {"name": "get_weather", "arguments": json.dumps(arguments)}
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "tool_calls": [{"id": identity, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": identity, "content": "sunny, 25 degrees"},
    ]
    answer = served.chat(QUESTION, messages=messages, tools=[WEATHER, TIME])
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls
