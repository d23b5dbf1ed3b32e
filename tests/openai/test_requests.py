"""Every field at, inside and outside its bounds, and with every wrong type."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from llmserve.errors import InvalidRequest, UnsupportedParameter
from llmserve.openai.messages import Message
from llmserve.openai.parse import parse_chat, parse_completion
from llmserve.openai.requests import ChatRequest

from .bodies import HELLO, chat, chat_body, chat_refusal, completion, completion_body, completion_refusal, tool

INTEGERS = {
    "max_tokens": (1, 2**31 - 1),
    "max_completion_tokens": (1, 2**31 - 1),
    "n": (1, 8),
    "seed": (-(2**63), 2**63 - 1),
    "top_k": (0, 1_000_000),
    "repeat_last_n": (-1, 2**31 - 1),
    "dry_allowed_length": (0, 2**31 - 1),
    "dry_penalty_last_n": (-1, 2**31 - 1),
    "thinking_token_budget": (0, 2**31 - 1),
}
EXTREME_INTEGERS = (-(2**64), -(2**63), -(2**63) - 1, -1, 0, 10**6, 10**9, 2**31, 2**63 - 1, 2**63, 2**64, 10**31)
NUMBERS = {
    "temperature": (0, 2),
    "top_p": (0.001, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0.001, 10),
    "typical_p": (0.001, 1),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "dry_multiplier": (0, 100),
    "dry_base": (1, 10),
    "mirostat_tau": (0, 100),
    "mirostat_eta": (0, 1),
}
FLAGS = ("stream", "ignore_eos", "parallel_tool_calls", "logprobs")
BAD_BIASES: tuple[Any, ...] = (101, -101, 1e300, -1e300, 10**31, True, "1", None, [], {}, 1e-310)
WRONG_TYPES: tuple[Any, ...] = ("1", "", [], [1], {}, {"a": 1})


@pytest.mark.parametrize("field", INTEGERS)
def test_integer_bounds(field: str) -> None:
    low, high = INTEGERS[field]
    for value in (low, high):
        assert getattr(chat(**{field: value}), field.replace("max_completion", "max")) == value
    for value in {*EXTREME_INTEGERS, low - 1, high + 1}:
        if not low <= value <= high:
            refusal = chat_refusal(**{field: value})
            assert refusal.param == field
            assert field in refusal.message


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize("value", [*WRONG_TYPES, 1.0, 1.5, True, False, 1e300])
def test_integer_types(field: str, value: object) -> None:
    assert chat_refusal(**{field: value}).param == field


@pytest.mark.parametrize("field", NUMBERS)
def test_number_bounds(field: str) -> None:
    low, high = NUMBERS[field]
    for value in (low, high, float(low), float(high)):
        assert getattr(completion(**{field: value}), field) == value
    for value in (low - 0.01, high + 0.01, -1e300, 1e300, *EXTREME_INTEGERS[:3], *EXTREME_INTEGERS[-3:]):
        refusal = completion_refusal(**{field: value})
        assert refusal.param == field
        assert field in refusal.message


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [*WRONG_TYPES, True, False, 5e-324, 1e-310, -1e-310, 1e-40])
def test_number_types_and_subnormals(field: str, value: object) -> None:
    assert chat_refusal(**{field: value}).param == field


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
@pytest.mark.parametrize("field", NUMBERS)
def test_numbers_that_are_not_finite(field: str, literal: str) -> None:
    body = chat_body(**{field: 0.125}).replace(b"0.125", literal.encode())
    with pytest.raises(InvalidRequest):
        parse_chat(body)


@pytest.mark.parametrize("field", FLAGS)
@pytest.mark.parametrize("value", [*WRONG_TYPES, 0, 1, 1.0, "true"])
def test_flags(field: str, value: object) -> None:
    assert chat_refusal(**{field: value}).param == field
    assert getattr(chat(**{field: True}), field) is True
    assert getattr(chat(**{field: False}), field) is False


@pytest.mark.parametrize("name", ["m", "smollm2:135m", "org/name", "/home/me/model file.gguf", "é" * 512])
def test_model_names(name: str) -> None:
    assert chat(model=name).model == name


@pytest.mark.parametrize(
    "name", ["", "x" * 513, "a\nb", "a\r\nX-Evil: 1", "\x1b[31m", "a\x7f", "a\x85", "a\u2028b", 1, True, [], ["m"], {}]
)
def test_model_names_refused(name: object) -> None:
    assert chat_refusal(model=name).param == "model"


@pytest.mark.parametrize("field", ["model", "messages"])
@pytest.mark.parametrize("missing", [{}, None], ids=["absent", "null"])
def test_required_fields(field: str, missing: object) -> None:
    body: dict[str, Any] = {"model": "m", "messages": [HELLO], field: None}
    refusal = chat_refusal(**body)
    assert (refusal.param, refusal.message) == (field, f"`{field}` is required")


@pytest.mark.parametrize(
    "field", ["temperature", "n", "stream", "stop", "logit_bias", "response_format", "stream_options"]
)
def test_null_is_absent(field: str) -> None:
    assert chat(**{field: None}) == chat()
    assert chat(**{field: None}).canonical() == chat().canonical()


# --- the two names of the limit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 5}, 5),
        ({"max_tokens": None, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
    ],
)
def test_token_limit_has_two_names(limits: dict[str, Any], expected: int | None) -> None:
    assert chat(**limits).max_tokens == expected
    assert completion(**limits).max_tokens == expected
    assert b"max_completion_tokens" not in chat(**limits).canonical()


@pytest.mark.parametrize("other", [6, 5.0, True, "5"])
def test_token_limits_that_disagree(other: object) -> None:
    assert chat_refusal(max_tokens=5, max_completion_tokens=other).param == "max_completion_tokens"


@pytest.mark.parametrize(
    ("limits", "expected"), [({"max_tokens": 0}, 0), ({"max_completion_tokens": 0}, 0), ({"max_tokens": 1}, 1)]
)
def test_an_echo_alone_needs_no_new_tokens(limits: dict[str, int], expected: int) -> None:
    request = completion(echo=True, logprobs=1, **limits)
    assert request.max_tokens == expected
    assert parse_completion(request.canonical(max_tokens=100), strict=True).request == request


@pytest.mark.parametrize("fields", [{}, {"echo": False}, {"logprobs": 1}])
def test_no_new_tokens_without_an_echo(fields: dict[str, Any]) -> None:
    assert completion_refusal(max_tokens=0, **fields).param == "max_tokens"


# --- what only completions have ------------------------------------------------------------------------------------


def test_suffix_and_echo() -> None:
    assert completion(suffix=" end").suffix == " end"
    assert completion(suffix="", echo=True).suffix == ""
    assert completion_refusal(suffix="x", echo=True).param == "suffix"
    assert completion_refusal(suffix=5).param == "suffix"
    assert completion_refusal(echo="yes").param == "echo"


@pytest.mark.parametrize("value", [21, -1, True, False, 1.0, "1"])
def test_logprobs_of_a_completion_refused(value: object) -> None:
    assert completion_refusal(logprobs=value).param == "logprobs"


# --- what goes together --------------------------------------------------------------------------------------------


def test_alternatives_need_probabilities() -> None:
    assert chat(top_logprobs=0).top_logprobs == 0
    assert chat_refusal(top_logprobs=1).param == "top_logprobs"
    assert chat_refusal(logprobs=False, top_logprobs=1).param == "top_logprobs"
    assert chat_refusal(logprobs=True, top_logprobs=21).param == "top_logprobs"


def test_repetition_penalty_has_two_names() -> None:
    assert chat(repeat_penalty=1.5).repetition_penalty == 1.5
    assert chat(repeat_penalty=1.5, repetition_penalty=1.5) == chat(repetition_penalty=1.5)
    assert chat_refusal(repetition_penalty=1.5, repeat_penalty=1.25).param == "repeat_penalty"
    assert chat_refusal(repeat_penalty=11).param == "repeat_penalty"


@pytest.mark.parametrize("version", [0, 2])
def test_mirostat(version: int) -> None:
    assert chat(mirostat=version).mirostat == version


@pytest.mark.parametrize("version", [1, 3, -1, True, False, 2.0, "2"])
def test_mirostat_refused(version: object) -> None:
    assert chat_refusal(mirostat=version).param == "mirostat"


def test_dry_sequence_breakers() -> None:
    assert chat(dry_sequence_breakers=["\n", "x" * 40]).dry_sequence_breakers == ("\n", "x" * 40)
    assert chat().dry_sequence_breakers == ()


@pytest.mark.parametrize(
    ("breakers", "param"),
    [
        ([], "dry_sequence_breakers"),
        ("\n", "dry_sequence_breakers"),
        (["a"] * 33, "dry_sequence_breakers"),
        ([""], "dry_sequence_breakers[0]"),
        (["x" * 41], "dry_sequence_breakers[0]"),
        (["a", 1], "dry_sequence_breakers[1]"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_dry_sequence_breakers_refused(breakers: object, param: str) -> None:
    assert chat_refusal(dry_sequence_breakers=breakers).param == param


# --- stop, logit_bias ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("\n", ("\n",)),
        (["a", "b"], ("a", "b")),
        ([], ()),
        (["x" * 1024] * 16, ("x" * 1024,) * 16),
        ("\r\nX: 1", ("\r\nX: 1",)),
    ],
)
def test_stop(stop: object, expected: tuple[str, ...]) -> None:
    assert chat(stop=stop).stop == expected


@pytest.mark.parametrize(
    "stop",
    ["", [""], ["a", ""], "x" * 1025, "x" * 1_000_000, ["a"] * 17, ["a"] * 100_000, [1], [None], [["a"]], 1, True, {}],
    ids=lambda stop: repr(stop)[:20],
)
def test_stop_refused(stop: object) -> None:
    assert chat_refusal(stop=stop).param == "stop"


def test_logit_bias() -> None:
    assert chat(logit_bias={"0": -100, "2147483647": 100, "5": 0.5}).logit_bias == {0: -100, 2**31 - 1: 100, 5: 0.5}
    assert chat(logit_bias={}).logit_bias == {}
    assert len(chat(logit_bias={str(token): 1 for token in range(1024)}).logit_bias or {}) == 1024


@pytest.mark.parametrize(
    "biases",
    [
        *({key: 1} for key in ("-1", "2147483648", "abc", "", "05", "+5", " 5", "5 ", "1.0", "1e3", "٥", "9" * 5000)),
        *({"5": value} for value in BAD_BIASES),
        {str(token): 1 for token in range(1025)},
        {str(token): 1 for token in range(99_000)},
        [],
        [[5, 1]],
        "5",
        1,
    ],
    ids=lambda biases: repr(biases)[:20],
)
def test_logit_bias_refused(biases: object) -> None:
    assert chat_refusal(logit_bias=biases).param == "logit_bias"


def test_a_million_biases() -> None:
    million = b'"1": 1, ' * 1_000_000
    with pytest.raises(InvalidRequest):
        parse_chat(chat_body(logit_bias={"0": 1}).replace(b'"0"', million + b'"0"'))


@pytest.mark.parametrize("literal", ["NaN", "1e400"])
def test_bias_that_is_not_finite(literal: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat(chat_body(logit_bias={"5": 0.125}).replace(b"0.125", literal.encode()))


# --- streaming and the form of the answer --------------------------------------------------------------------------


def test_stream_options() -> None:
    assert not chat(stream=True).include_usage
    assert not chat(stream=True, stream_options={}).include_usage
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not chat(stream=True, stream_options={"include_usage": None, "include_obfuscation": True}).include_usage


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_options": {}}, "stream_options"),
        ({"stream": None, "stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": True}, "stream_options"),
    ],
)
def test_stream_options_refused(fields: dict[str, Any], param: str) -> None:
    assert chat_refusal(**fields).param == param


def json_schema(schema: object, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **fields}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


def test_response_format() -> None:
    for kind in ("text", "json_object"):
        form = chat(response_format={"type": kind, "json_schema": None}).response_format
        assert form is not None
        assert (form.type, form.json_schema) == (kind, None)
    schema = {"type": "object", "properties": {"a": {"enum": [None, 1, 10**30]}}, "default": None}
    form = completion(response_format=json_schema(schema, strict=True, description="x")).response_format
    assert form is not None
    assert form.json_schema is not None
    assert form.json_schema.definition == schema
    assert form.json_schema.strict
    assert chat(response_format=json_schema(nested(32))).response_format is not None
    assert chat(response_format=json_schema({"x": "y" * (64 * 1024 - 8)})).response_format is not None


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({}, "response_format.type"),
        ("json_object", "response_format"),
        ([], "response_format"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "text", "json_schema": {"name": "a", "schema": {}}}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": []}, "response_format.json_schema"),
        (json_schema(True), "response_format.json_schema.schema"),
        (json_schema("{}"), "response_format.json_schema.schema"),
        (json_schema([]), "response_format.json_schema.schema"),
        (json_schema({}, name=""), "response_format.json_schema.name"),
        (json_schema({}, name="x" * 65), "response_format.json_schema.name"),
        (json_schema({}, strict="yes"), "response_format.json_schema.strict"),
        (json_schema({}, description=1), "response_format.json_schema.description"),
        (json_schema(nested(33)), "response_format.json_schema.schema"),
        (json_schema({"x": "y" * 64 * 1024}), "response_format.json_schema.schema"),
        (json_schema({"enum": list(range(20_000))}), "response_format.json_schema.schema"),
    ],
    ids=lambda form: repr(form)[:40],
)
def test_response_format_refused(form: object, param: str) -> None:
    assert chat_refusal(response_format=form).param == param


# --- messages ------------------------------------------------------------------------------------------------------

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_messages_of_every_role() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "system", "content": "be kind", "name": "boss"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "index": 1, "type": None}]},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None, "function_call": None},
        {"role": "assistant", "content": "yes", "tool_calls": []},
        {"role": "assistant", "content": "", "reasoning_content": "well"},
    ]
    read = chat(messages=messages).messages
    assert [message.role for message in read] == [
        "system",
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "assistant",
        "assistant",
    ]
    assert [message.content for message in read] == ["be brief", "be kind", "", None, "42", "yes", "yes", ""]
    assert [message.reasoning_content for message in read] == [None] * 7 + ["well"]
    assert [(call.id, call.type, call.function.name) for call in read[3].tool_calls] == [
        ("call_1", "function", "f")
    ] * 2
    assert read[4].tool_call_id == "call_1"


def test_past_reasoning_has_two_names() -> None:
    def read(**fields: str) -> str | None:
        request = chat(messages=[HELLO, {"role": "assistant", "content": "x", **fields}])
        assert parse_chat(request.canonical(), strict=True).request == request
        return request.messages[1].reasoning_content

    assert read(reasoning="well") == read(reasoning_content="well") == "well"
    assert read(reasoning="well", reasoning_content="well") == "well"
    assert read() is None


def test_text_parts_are_joined_with_line_feeds() -> None:
    parts = [{"type": "text", "text": text, "cache_control": None} for text in ("first", "", "last")]
    assert parse_chat(chat_body(messages=[{"role": "user", "content": parts}]), strict=True).ignored_fields == ()
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "first\n\nlast"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([HELLO] * 4097, "messages"),
        ([HELLO] * 40_000, "messages"),
        ("hello", "messages"),
        ({"role": "user"}, "messages"),
        ([HELLO, "hello"], "messages[1]"),
        ([None], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([HELLO, {"role": "robot", "content": "x"}], "messages[1].role"),
        ([{"role": "function", "content": "x", "name": "f"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "assistant"}], "messages[0].content"),
        ([{"role": "assistant", "tool_calls": []}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": {"type": "text", "text": "x"}}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": "x", "name": ""}], "messages[0].name"),
        ([{"role": "user", "content": "x", "name": "n" * 65}], "messages[0].name"),
        ([{"role": "user", "content": "x", "name": "a\nb"}], "messages[0].name"),
        ([{"role": "user", "content": "x", "name": 5}], "messages[0].name"),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], "messages[0].tool_calls"),
        ([{"role": "user", "content": "x", "tool_call_id": "a"}], "messages[0].tool_call_id"),
        ([{"role": "user", "content": "x", "reasoning": "r"}], "messages[0].reasoning_content"),
        ([{"role": "assistant", "content": "x", "reasoning_content": {}}], "messages[0].reasoning_content"),
        (
            [{"role": "assistant", "content": "x", "reasoning_content": "a", "reasoning": "b"}],
            "messages[0].reasoning",
        ),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ([{"role": "tool", "tool_call_id": "a"}], "messages[0].content"),
        ([{"role": "assistant", "tool_calls": [CALL] * 129}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "id": None}]}], "messages[0].tool_calls[0].id"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}], "messages[0].tool_calls[0].type"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "function": "f"}]}], "messages[0].tool_calls[0].function"),
        (
            [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_messages_refused(messages: object, param: str) -> None:
    assert chat_refusal(messages=messages).param == param


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "x"}},
        {"type": "file", "file": {"file_id": "x"}},
        {"type": "refusal", "refusal": "no"},
        {"type": "prompt_embeds", "data": "AAAA"},
    ],
    ids=lambda part: part["type"],
)
def test_parts_that_are_not_text(part: dict[str, Any]) -> None:
    refusal = chat_refusal(messages=[HELLO, {"role": "user", "content": [{"type": "text", "text": "see"}, part]}])
    assert isinstance(refusal, UnsupportedParameter)
    assert refusal.param == "messages[1].content[1]"


@pytest.mark.parametrize("field", ["audio", "function_call"])
def test_message_fields_of_other_features(field: str) -> None:
    refusal = chat_refusal(messages=[{"role": "assistant", "content": "x", field: {"id": "a"}}])
    assert isinstance(refusal, UnsupportedParameter)
    assert refusal.param == f"messages[0].{field}"


# --- prompts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        (["a"] * 64, ("a",) * 64),
        ([0, 2**31 - 1], ((0, 2**31 - 1),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_prompts(prompt: object, expected: object) -> None:
    assert completion(prompt=prompt).prompt == expected


@pytest.mark.parametrize(
    "prompt",
    [
        None, "", [], [""], ["a", ""], [[]], [[1], []], ["a"] * 65, [[1]] * 65, [-1], [2**31], [2**63], [1.0], [1, "a"],
        ["a", 1], [True], [1, True], [[True]], [[1, None]], [None], [[1], ["a"]], [["a"]], ["a", ["b"]], [[[1]]],
        5, True, {}, {"prompt_string": "a"},
    ],
    ids=lambda prompt: repr(prompt)[:20],
)  # fmt: skip
def test_prompts_refused(prompt: object) -> None:
    assert completion_refusal(prompt=prompt).param == "prompt"


# --- text that is no text, and messages that stay short ------------------------------------------------------------

STRINGS_OF_A_CHAT: list[dict[str, Any]] = [
    {"model": "@"},
    {"stop": "@"},
    {"stop": ["a", "@"]},
    {"user": "@"},
    {"unknown": "@"},
    {"@": 1},
    {"messages": [{"role": "user", "content": "@"}]},
    {"messages": [{"role": "user", "content": "x", "name": "@"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "@"}]}]},
    {"messages": [{"role": "tool", "content": "x", "tool_call_id": "@"}]},
    {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "@"}}]}]},
    {"response_format": json_schema({"@": {}})},
    {"tools": [tool("f", description="@")]},
    {"tools": [tool("f", parameters={"@": 1})]},
    {"structured_outputs": {"grammar": "@"}},
    {"chat_template_kwargs": {"a": "@"}},
    {"documents": [{"text": "@"}]},
]


@pytest.mark.parametrize("escape", [rb"\ud800", rb"\udfff", rb"\u0000", b"\xff", b"\xed\xa0\x80", b"\x00"])
@pytest.mark.parametrize("fields", STRINGS_OF_A_CHAT, ids=repr)
def test_broken_characters_in_every_string(fields: dict[str, Any], escape: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat(chat_body(**fields).replace(b"@", escape))


@pytest.mark.parametrize("escape", [rb"\ud800", rb"\u0000", b"\xff"])
def test_broken_characters_in_a_prompt(escape: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_completion(completion_body(prompt="@").replace(b"@", escape))


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"true"])
def test_bodies_that_are_no_object(body: bytes) -> None:
    for parse in (parse_chat, parse_completion):
        with pytest.raises(InvalidRequest, match="JSON object"):
            parse(body)


LONG = "lengthy" * 60_000


@pytest.mark.parametrize(
    "fields",
    [
        {"model": LONG},
        {"stop": [LONG]},
        {"logit_bias": {LONG: 1}},
        {"tools": [LONG]},
        {"tools": [tool(LONG)]},
        {"tools": [tool("f", parameters={"properties": {"a": {"type": LONG[:4000]}}})]},
        {"tool_choice": LONG},
        {"reasoning_effort": LONG},
        {"chat_template_kwargs": {LONG: 1}},
        {"structured_outputs": {"json": LONG}},
        {"response_format": {"type": LONG}},
        {"messages": [{"role": LONG, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": LONG}]}]},
        {"temperature": LONG},
        {LONG: 1},
    ],
    ids=lambda fields: repr(fields)[:30],
)
def test_messages_never_repeat_the_input(fields: dict[str, Any]) -> None:
    refusal = chat_refusal(**fields)
    assert len(refusal.message) <= 200
    assert "lengthy" not in refusal.message


def test_a_long_path_does_not_crowd_out_what_is_wrong() -> None:
    schema: dict[str, Any] = {"pattern": 1}
    for _ in range(10):
        schema = {"properties": {"p" * 64: schema}}
    refusal = chat_refusal(tools=[tool("f", parameters=schema)])
    assert refusal.message.startswith("`tools[0].function.parameters.properties.p")
    assert refusal.message.endswith(".pattern` must be a string")
    assert (refusal.param or "").count("properties") == 10


# --- the models themselves -----------------------------------------------------------------------------------------


def test_requests_are_frozen_and_closed() -> None:
    request = ChatRequest(model="m", messages=(Message(role="user", content="x"),))
    with pytest.raises(ValidationError):
        request.n = 2  # type: ignore[misc]
    with pytest.raises(ValidationError):
        ChatRequest.model_validate({"model": "m", "messages": [HELLO], "foo": 1})
    with pytest.raises(ValidationError):
        Message.model_validate({"role": "user", "content": [{"type": "text", "text": "x", "foo": 1}]})
