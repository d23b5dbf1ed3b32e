"""Grammars and templates through a real worker, its preparers and its tokenizer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.llama.conftest import NAME, WorkerProcess

SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 3, "maximum": 12}},
    "required": ["color", "count"],
    "additionalProperties": False,
}


def chat(worker: WorkerProcess, **fields: Any) -> Any:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": NAME, "messages": messages, "max_tokens": 80, "seed": 1, **fields}
    return worker.client.post("/v1/chat/completions", json=body)


def content(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def fits_schema(text: str) -> bool:
    value = json.loads(text)
    return value["color"] in {"red", "green"} and 3 <= value["count"] <= 12


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"json": SCHEMA}, fits_schema),
        ({"json": json.dumps(SCHEMA)}, fits_schema),
        ({"regex": "[ab]{3}-[0-9]{2}"}, re.compile("[ab]{3}-[0-9]{2}").fullmatch),
        ({"choice": ["the world", "hello \n world"]}, {"the world", "hello \n world"}.__contains__),
        ({"grammar": 'root ::= "the " ("world" | "end") "."'}, {"the world.", "the end."}.__contains__),
        ({"grammar": 'start: "the " (A | B)\nA: "x"\nB: /y{2}/'}, {"the x", "the yy"}.__contains__),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_answer_has_the_form_that_was_asked_for(worker: WorkerProcess, asked: Any, fits: Any) -> None:
    assert fits(content(chat(worker, structured_outputs=asked)))


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "unclosed group"),
        (
            {"structured_outputs": {"grammar": "root ::= " + "(" * 60000}},
            "structured_outputs.grammar",
            "cannot be used",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"properties": {"a": {"not": {"type": "null"}}}}},
                }
            },
            "response_format.json_schema.schema",
            "`not` at /properties/a",
        ),
    ],
)
def test_a_form_that_cannot_be_followed_is_a_400(
    worker: WorkerProcess, fields: dict[str, Any], param: str, says: str
) -> None:
    answer = chat(worker, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert says in answer.json()["error"]["message"]
    assert chat(worker).status_code == 200


def test_the_last_message_is_continued(worker: WorkerProcess) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the "}]
    whole = chat(worker, messages=messages, max_tokens=1)
    continued = chat(worker, messages=messages, continue_final_message=True, max_tokens=1)
    assert whole.status_code == continued.status_code == 200
    tokens = [answer.json()["usage"]["prompt_tokens"] for answer in (whole, continued)]
    # Neither the end of the message nor the start of another one is part of the prompt.
    assert tokens[0] > tokens[1]
