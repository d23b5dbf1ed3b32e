"""What the dialects' contract tests ask in common: one question, one tool, one schema, and how streams are read."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import jsonschema  # type: ignore[import-untyped]

SYSTEM_TEXT = "You are a helpful AI assistant."
QUESTION = "What is the capital of France?"
# No model here has so long a context.
TOO_LONG = "word " * 40_000

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
CLOCK: dict[str, Any] = {
    "name": "get_time",
    "description": "The time in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def follows(value: object, schema: dict[str, Any]) -> bool:
    """Whether `value` is what the schema describes; says why where it is not."""
    jsonschema.validate(value, schema)
    return True


def named_events(answer: httpx2.Response) -> list[dict[str, Any]]:
    """The events of a stream whose events have names, each of which must be its data's `type`."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            event = json.loads(fields["data"])
            assert event["type"] == fields["event"]
            events.append(event)
    return events
