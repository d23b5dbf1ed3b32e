"""Tools and the choice among them: what is offered, what is demanded, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.errors import UnsupportedParameter
from llmserve.openai.parse import parse_chat
from llmserve.openai.tools import NamedTool

from .bodies import HELLO, chat, chat_body, chat_refusal, tool

WEATHER = tool(
    "get_weather.v2-x",
    description="What the sky does",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    strict=True,
)
NAME_F = {"type": "function", "function": {"name": "f"}}
NAME_G = {"type": "function", "function": {"name": "g"}}


def test_a_tool_is_kept_as_it_was_stated() -> None:
    request = chat(tools=[WEATHER, tool("g")])
    assert [entry.for_template() for entry in request.tools] == [WEATHER, tool("g")]
    assert json.loads(request.canonical())["tools"] == [WEATHER, tool("g")]
    assert request.tools[0].function.strict
    assert request.tools[1].function.parameters is None
    assert parse_chat(request.canonical(), strict=True).request == request


def test_order_and_null_inside_parameters_survive() -> None:
    parameters = {"type": "object", "properties": {"z": {"default": None}, "a": {"enum": [None, 1]}}}
    function = chat(tools=[tool(parameters=parameters)]).tools[0].for_template()["function"]
    assert json.dumps(function["parameters"]) == json.dumps(parameters)


def test_many_tools() -> None:
    assert len(chat(tools=[tool(f"f{number}") for number in range(128)]).tools) == 128
    big = {"type": "object", "description": "x" * 60_000}
    assert len(chat(tools=[tool(f"f{number}", parameters=big) for number in range(8)]).tools) == 8
    assert chat_refusal(tools=[tool(f"f{number}", parameters=big) for number in range(9)]).param == "tools"


def test_no_tools_is_the_same_as_none_stated() -> None:
    request = chat(tools=[], tool_choice="none", parallel_tool_calls=False)
    assert (request.tools, request.demanded_tools) == ((), ())


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ("f", "tools"),
        ({}, "tools"),
        ([tool(f"f{number}") for number in range(129)], "tools"),
        (["f"], "tools[0]"),
        ([{}], "tools[0].function"),
        ([{"type": "custom", "custom": {"name": "f"}}], "tools[0].type"),
        ([{"type": "web_search"}], "tools[0].type"),
        ([tool("")], "tools[0].function.name"),
        ([tool("x" * 65)], "tools[0].function.name"),
        ([tool("a b")], "tools[0].function.name"),
        ([tool("f\n")], "tools[0].function.name"),
        ([tool("é")], "tools[0].function.name"),
        ([tool("<|im_end|>")], "tools[0].function.name"),
        ([tool(), tool("g"), tool()], "tools[2].function.name"),
        ([tool(description=5)], "tools[0].function.description"),
        ([tool(description="x" * 16_385)], "tools[0].function.description"),
        ([tool(strict="yes")], "tools[0].function.strict"),
        ([tool(parameters=[])], "tools[0].function.parameters"),
        ([tool(parameters="{}")], "tools[0].function.parameters"),
        ([tool(parameters={"x": "y" * 65_536})], "tools[0].function.parameters"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_tools_refused(tools: object, param: str) -> None:
    assert chat_refusal(tools=tools).param == param


def test_parameters_are_bounded_in_depth() -> None:
    schema: dict[str, Any] = {}
    for _ in range(31):
        schema = {"items": schema}
    assert chat(tools=[tool(parameters=schema)]).tools
    assert chat_refusal(tools=[tool(parameters={"items": schema})]).param == "tools[0].function.parameters"


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": 7}, "type"),
        ({"type": "string[]"}, "type"),
        ({"type": []}, "type"),
        ({"type": ["string", "text"]}, "type"),
        ({"pattern": 1}, "pattern"),
        ({"required": True}, "required"),
        ({"required": [1]}, "required"),
        ({"enum": []}, "enum"),
        ({"enum": "a"}, "enum"),
        ({"minLength": -1}, "minLength"),
        ({"maxItems": 1.5}, "maxItems"),
        ({"maxItems": True}, "maxItems"),
        ({"minimum": "0"}, "minimum"),
        ({"$ref": {}}, "$ref"),
        ({"properties": []}, "properties"),
        ({"properties": {"a": "string"}}, "properties.a"),
        ({"properties": {"a": {"type": "str"}}}, "properties.a.type"),
        ({"$defs": {"a": {"type": 1}}}, "$defs.a.type"),
        ({"anyOf": {}}, "anyOf"),
        ({"anyOf": [True, {"type": 1}]}, "anyOf[1].type"),
        ({"items": {"pattern": []}}, "items.pattern"),
        ({"items": [{}, {"pattern": []}]}, "items[1].pattern"),
        ({"items": 5}, "items"),
        ({"additionalProperties": {"type": "x"}}, "additionalProperties.type"),
        ({"not": None}, "not"),
    ],
    ids=repr,
)
def test_keywords_with_values_of_the_wrong_kind(schema: dict[str, Any], place: str) -> None:
    place = place.replace("$", "?")
    assert chat_refusal(tools=[tool(parameters=schema)]).param == f"tools[0].function.parameters.{place}"
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert chat_refusal(response_format=form).param == f"response_format.json_schema.schema.{place}"
    assert chat_refusal(structured_outputs={"json": schema}).param == f"structured_outputs.json.{place}"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"type": {"type": "string"}, "pattern": {"type": "integer"}, "required": {"enum": [True]}}},
        {"type": ["string", "null"], "maxLength": 3.0, "unknown": {"type": 5}, "default": {"type": 5}},
        {"additionalProperties": False, "items": True, "anyOf": [{"const": {"type": 1}}]},
        {"type": "number", "exclusiveMinimum": True, "multipleOf": 0.5, "examples": [{"pattern": 1}]},
    ],
    ids=repr,
)
def test_schemas_that_only_look_odd(schema: dict[str, Any]) -> None:
    assert chat(tools=[tool(parameters=schema)]).tools[0].function.parameters == schema


# --- the choice ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "demanded"),
    [(None, []), ("auto", []), ("none", []), ("required", ["f", "g"]), (NAME_G, ["g"])],
    ids=repr,
)
def test_tool_choice(choice: object, demanded: list[str]) -> None:
    request = chat(tools=[tool("f"), tool("g")], tool_choice=choice)
    assert [entry.function.name for entry in request.demanded_tools] == demanded
    assert parse_chat(request.canonical(), strict=True).request == request


def test_a_named_choice_keeps_its_shape() -> None:
    request = chat(tools=[tool()], tool_choice=NAME_F)
    assert isinstance(request.tool_choice, NamedTool)
    assert json.loads(request.canonical())["tool_choice"] == NAME_F


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": NAME_F}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": NAME_G}, "tool_choice.function.name"),
        ({"tools": [tool()], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "f"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": 1}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": []}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": "f"}}, "tool_choice.function"),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": 1}}}, "tool_choice.function"),
        ({"tools": [tool()], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [tool()], "tool_choice": "required", "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"tools": [tool()], "tool_choice": NAME_F, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ],
    ids=repr,
)
def test_tool_choices_refused(fields: dict[str, Any], param: str) -> None:
    assert chat_refusal(**fields).param == param


@pytest.mark.parametrize("kind", ["allowed_tools", "custom", None, 5])
def test_other_kinds_of_choice_are_not_supported(kind: object) -> None:
    refusal = chat_refusal(tools=[tool()], tool_choice={"type": kind, "allowed_tools": {"mode": "auto", "tools": []}})
    assert isinstance(refusal, UnsupportedParameter)
    assert refusal.param == "tool_choice.type"


def test_unknown_fields_of_tools_are_listed() -> None:
    marked = {**tool("f", cache="x"), "y": 1}
    choice = {"type": "function", "function": {"name": "f", "z": 1}, "w": 1}
    parsed = parse_chat(chat_body(tools=[marked], tool_choice=choice))
    assert set(parsed.ignored_fields) == {
        "tools[].y",
        "tools[].function.cache",
        "tool_choice.w",
        "tool_choice.function.z",
    }
    assert parsed.request == chat(tools=[tool("f")], tool_choice=NAME_F)


def test_a_choice_of_auto_goes_with_a_form() -> None:
    request = chat(tools=[tool()], tool_choice="auto", structured_outputs={"choice": ["a"]}, messages=[HELLO])
    assert request.structured_outputs is not None
    assert request.structured_outputs.choice == ("a",)
