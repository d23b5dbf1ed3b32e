"""`structured_outputs`: one of four forms, within bounds, and beside no other form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.errors import UnsupportedParameter
from llmserve.openai.parse import parse_chat
from llmserve.openai.structured_outputs import StructuredOutputs

from .bodies import chat, chat_refusal, completion


def form(**stated: Any) -> StructuredOutputs:
    """The form as a request with it has it, after a round trip that changes nothing."""
    request = chat(structured_outputs=stated)
    assert parse_chat(request.canonical(), strict=True).request == request
    assert completion(structured_outputs=stated).structured_outputs == request.structured_outputs
    assert request.structured_outputs is not None
    return request.structured_outputs


def test_each_form() -> None:
    schema = {"type": "object", "default": None}
    assert form(json=schema).definition == schema
    assert form(json=json.dumps(schema), regex=None).definition == schema
    assert form(regex="[a-z]{1,64}").regex == "[a-z]{1,64}"
    assert form(choice=["yes", "no"]).choice == ("yes", "no")
    assert form(grammar='root ::= "a"\n').grammar == 'root ::= "a"\n'


def test_forms_at_their_bounds() -> None:
    assert form(regex="a" * 8192).regex
    assert len(form(choice=[str(number) for number in range(1024)]).choice) == 1024
    assert form(choice=["x" * 1024] * 64).choice
    assert form(grammar="x" * 65_536).grammar


@pytest.mark.parametrize(
    ("stated", "param"),
    [
        ({}, ""),
        ({"json": {}, "regex": "a"}, ""),
        ({"choice": ["a"], "grammar": "a"}, ""),
        ("a", ""),
        ([], ""),
        ({"json": 1}, ".json"),
        ({"json": []}, ".json"),
        ({"json": True}, ".json"),
        ({"json": ""}, ".json"),
        ({"json": "[]"}, ".json"),
        ({"json": "{"}, ".json"),
        ({"json": '{"a": 1, "a": 2}'}, ".json"),
        ({"json": '{"a": NaN}'}, ".json"),
        ({"json": "[" * 10_000}, ".json"),
        ({"json": '{"x": "' + "y" * 65_536 + '"}'}, ".json"),
        ({"json": {"x": "y" * 65_536}}, ".json"),
        ({"regex": ""}, ".regex"),
        ({"regex": "a" * 8193}, ".regex"),
        ({"regex": 1}, ".regex"),
        ({"choice": []}, ".choice"),
        ({"choice": "a"}, ".choice"),
        ({"choice": [""]}, ".choice[0]"),
        ({"choice": ["a", 1]}, ".choice[1]"),
        ({"choice": ["x" * 1025]}, ".choice[0]"),
        ({"choice": ["a"] * 1025}, ".choice"),
        ({"choice": ["x" * 1024] * 65}, ".choice"),
        ({"grammar": ""}, ".grammar"),
        ({"grammar": {}}, ".grammar"),
        ({"grammar": "(" * 65_537}, ".grammar"),
        ({"grammar": "é" * 32_769}, ".grammar"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_forms_refused(stated: object, param: str) -> None:
    assert chat_refusal(structured_outputs=stated).param == f"structured_outputs{param}"


@pytest.mark.parametrize(
    ("field", "value"),
    [("json_object", True), ("structural_tag", {}), ("whitespace_pattern", " "), ("disable_any_whitespace", True)],
)
def test_other_forms_are_not_supported(field: str, value: object) -> None:
    refusal = chat_refusal(structured_outputs={"regex": "a", field: value})
    assert isinstance(refusal, UnsupportedParameter)
    assert refusal.param == f"structured_outputs.{field}"


def test_there_is_one_form() -> None:
    assert chat(structured_outputs={"regex": "a"}, response_format={"type": "text"}).structured_outputs is not None
    refusal = chat_refusal(structured_outputs={"regex": "a"}, response_format={"type": "json_object"})
    assert refusal.param == "structured_outputs"
