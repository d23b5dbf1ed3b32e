from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.errors import InvalidRequest
from llmserve.llama.constraint import ConstraintFactory
from llmserve.llama.grammar import Grammar
from tests.llama.vocabularies import END, factory


@pytest.fixture(scope="module")
def constraints() -> ConstraintFactory:
    return factory()


def fits(constraints: ConstraintFactory, schema: dict[str, Any], text: str) -> bool:
    constraint = constraints.compile(Grammar.of_schema(schema, "schema"))
    return all(constraint.accept(byte) for byte in text.encode()) and (constraint.complete or constraint.allows(END))


@pytest.mark.parametrize(
    ("date", "real"),
    [
        ("2023-02-28", True),
        ("2023-02-29", False),
        ("2024-02-29", True),
        ("1900-02-29", False),
        ("2000-02-29", True),
        ("0000-01-01", False),
        ("0001-01-01", True),
        ("2023-12-31", True),
        ("2023-04-31", False),
        ("2023-00-10", False),
    ],
)
def test_dates_are_of_the_calendar(constraints: ConstraintFactory, date: str, real: bool) -> None:
    assert fits(constraints, {"type": "string", "format": "date"}, f'"{date}"') is real
    assert fits(constraints, {"type": "string", "format": "date-time"}, f'"{date}T10:00:00Z"') is real
    nullable = {"type": ["string", "null"], "format": "date"}
    assert fits(constraints, {"properties": {"format": nullable}}, f'{{"format": "{date}"}}') is real


@pytest.mark.parametrize("name", ["binary", "password", "path", "file-path", "directory-path"])
def test_a_format_that_says_nothing_of_how_a_string_is_written_allows_any(
    constraints: ConstraintFactory, name: str
) -> None:
    bounded = {"type": "string", "format": name, "maxLength": 4}
    assert fits(constraints, bounded, '"a /b"')
    assert not fits(constraints, bounded, '"a /bc"')
    assert not fits(constraints, bounded, "1")
    # A property of that name, and a value that looks like such a schema, stay what they are.
    schema = {"properties": {"format": {"const": {"format": name}}}, "additionalProperties": False}
    assert fits(constraints, schema, f'{{"format": {{"format": "{name}"}}}}')
    assert not fits(constraints, schema, '{"format": {}}')


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
        {"type": "number", "minimum": -5.5, "exclusiveMaximum": -5},
        {"allOf": [{"type": "number", "exclusiveMinimum": 1}, {"maximum": 1.05}]},
        {"$defs": {"p": {"exclusiveMinimum": 0}}, "$ref": "#/$defs/p", "maximum": 0.5},
        {"type": "object", "minProperties": 2},
        {"type": "object", "required": ["a"], "properties": {"a": {}}, "minProperties": 3},
        {"type": "string", "format": "unknown"},
    ],
    ids=json.dumps,
)
def test_what_would_be_followed_too_loosely_is_refused(constraints: ConstraintFactory, schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"`(exclusiveMinimum|exclusiveMaximum|minProperties|format)`"):
        constraints.compile(Grammar.of_schema(schema, "schema"))


@pytest.mark.parametrize(
    ("schema", "outside"),
    [
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "0"),
        ({"type": "number", "exclusiveMinimum": 0}, "0"),
        ({"type": "number", "exclusiveMinimum": 0.5, "maximum": 0.9}, "0.5"),
        ({"type": "number", "minimum": -1, "exclusiveMaximum": 0}, "0"),
        ({"type": "integer", "exclusiveMinimum": 5, "maximum": 5.5}, "5"),
        ({"type": "object", "required": ["a"], "properties": {"a": {}}, "minProperties": 2}, '{"a": 1}'),
        ({"properties": {"rate": {"exclusiveMinimum": 0}, "price": {"maximum": 0.5}}}, '{"rate": 0}'),
    ],
    ids=json.dumps,
)
def test_the_rest_is_followed(constraints: ConstraintFactory, schema: dict[str, Any], outside: str) -> None:
    try:
        assert not fits(constraints, schema, outside)
    except InvalidRequest as error:
        assert "no text fits" in error.message or "Unsatisfiable" in error.message


def test_names_that_look_like_keywords_are_names(constraints: ConstraintFactory) -> None:
    schema = {
        "type": "object",
        "properties": {"minProperties": {"const": 9}, "format": {"const": "unknown"}, "enum": {"type": "null"}},
        "required": ["minProperties", "format", "enum"],
        "additionalProperties": False,
        "default": {"minProperties": 9},
    }
    assert fits(constraints, schema, '{"minProperties": 9, "format": "unknown", "enum": null}')
