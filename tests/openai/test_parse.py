"""Unknown, refused and ineffective fields; the canonical form and its round trip."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.errors import InvalidRequest, UnsupportedParameter
from llmserve.openai.fields import CHAT_POLICY, COMPLETION_POLICY, Policy, Refused, WithoutEffect
from llmserve.openai.json import dump_json
from llmserve.openai.parse import parse_chat, parse_completion
from llmserve.openai.requests import ChatRequest

from .bodies import HELLO, chat, chat_body, chat_refusal, completion, completion_body, completion_refusal

SOME_VALUES: tuple[Any, ...] = (True, False, 0, 1, -1, 2.5, "x", "none", "auto", [], [1], {}, {"a": 1})


# --- unknown fields ------------------------------------------------------------------------------------------------

UNKNOWN: dict[str, Any] = {
    "cache_salt": "s" * 1000,
    "lora_request": {"id": 1},
    "n_discard": -1,
    "n_keep": -(2**31),
    "stop_token_ids": [2**40],
    "id_slot": 5,
    "__class__": "x",
    "model_config": {"extra": "allow"},
    "max_completion_token": 5,
}


def test_unknown_fields_are_listed_and_dropped() -> None:
    parsed = parse_chat(chat_body(**UNKNOWN))
    assert parsed.ignored_fields == tuple(UNKNOWN)
    assert parsed.request == chat()
    assert json.loads(parsed.request.canonical()) == {"model": "m", "messages": [HELLO]}
    parsed_completion = parse_completion(completion_body(**UNKNOWN))
    assert parsed_completion.ignored_fields == tuple(UNKNOWN)
    assert json.loads(parsed_completion.request.canonical()) == {"model": "m", "prompt": ["hello"]}


def test_unknown_fields_deeper_are_listed_by_place() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "", "x": 1}, "y": 1}
    messages = [
        {**HELLO, "timestamp": 1},
        {**HELLO, "timestamp": 2},
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]},
        {"role": "assistant", "tool_calls": [call]},
    ]
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"kept": {}}, "z": 1}, "w": 1}
    parsed = parse_chat(
        chat_body(messages=messages, stream=True, stream_options={"v": 1}, response_format=form), strict=False
    )
    assert set(parsed.ignored_fields) == {
        "messages[].timestamp",
        "messages[].content[].cache_control",
        "messages[].tool_calls[].y",
        "messages[].tool_calls[].function.x",
        "response_format.w",
        "response_format.json_schema.z",
        "stream_options.v",
    }
    canonical = parsed.request.canonical()
    assert b"kept" in canonical
    assert parse_chat(canonical, strict=True).request == parsed.request


@pytest.mark.parametrize("fields", [{"foo": 1}, {"messages": [{**HELLO, "foo": 1}]}], ids=["outside", "inside"])
def test_strict_refuses_unknown_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(chat_body(**fields), strict=True)
    assert caught.value.param in {"foo", "messages[].foo"}
    assert "foo" in caught.value.message


def test_strict_accepts_what_is_known() -> None:
    assert parse_chat(chat_body(user="me", metadata={"a": "b"}, tools=[], foo=None), strict=True).ignored_fields == ()


def test_names_of_unknown_fields_are_safe_in_a_header() -> None:
    odd = {"a\r\nX-Evil: 1": 1, "\x1b[31m": 1, "é" * 200: 1, 'q"u,o;te': 1, "": 1}
    names = parse_chat(chat_body(**odd, **{f"field_{number}": 1 for number in range(100)})).ignored_fields
    assert len(names) == 32
    assert names[:5] == ("a??X-Evil??1", "?[31m", "?" * 64, "q?u?o?te", "?")
    assert all(name.isascii() and name.isprintable() and len(name) <= 64 for name in names)


def test_a_field_with_an_absurd_name_is_refused() -> None:
    refusal = chat_refusal(**{"k" * 4_000_000: 1})
    assert refusal.param is None
    assert "name" in refusal.message


# --- the policy ----------------------------------------------------------------------------------------------------


def decisions(policy: Policy, kind: type[Refused] | type[WithoutEffect]) -> list[str]:
    return [name for name, decision in policy.items() if isinstance(decision, kind)]


def is_harmless(policy: Policy, name: str, value: object) -> bool:
    decision = policy[name]
    return isinstance(decision, Refused) and decision.accepts(value, {})


@pytest.mark.parametrize("name", decisions(CHAT_POLICY, Refused))
def test_refused_chat_fields(name: str) -> None:
    for value in SOME_VALUES:
        if is_harmless(CHAT_POLICY, name, value):
            continue
        refusal = chat_refusal(**{name: value})
        assert isinstance(refusal, UnsupportedParameter)
        assert refusal.param == name
        assert refusal.message.startswith(f"`{name}` is not supported: ")


@pytest.mark.parametrize("name", decisions(COMPLETION_POLICY, Refused))
def test_refused_completion_fields(name: str) -> None:
    for value in SOME_VALUES:
        if is_harmless(COMPLETION_POLICY, name, value):
            continue
        refusal = completion_refusal(**{name: value})
        assert isinstance(refusal, UnsupportedParameter)
        assert refusal.param == name


@pytest.mark.parametrize(
    "fields",
    [
        {"functions": []},
        {"function_call": "none"},
        {"grammar": ""},
        {"modalities": ["text"]},
        {"verbosity": "medium"},
        *({name: None} for name in CHAT_POLICY),
        *({name: value} for name in decisions(CHAT_POLICY, WithoutEffect) for value in SOME_VALUES),
    ],
    ids=repr,
)
def test_chat_fields_that_change_nothing(fields: dict[str, Any]) -> None:
    parsed = parse_chat(chat_body(**fields), strict=True)
    assert parsed.request.canonical() == chat().canonical()


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 1},
        {"chat_template_kwargs": {}},
        {"add_generation_prompt": True},
        {"continue_final_message": False},
        {"user": "me"},
        *({name: None} for name in COMPLETION_POLICY),
    ],
    ids=repr,
)
def test_completion_fields_that_change_nothing(fields: dict[str, Any]) -> None:
    parsed = parse_completion(completion_body(**fields), strict=True)
    assert parsed.request.canonical() == completion().canonical()


@pytest.mark.parametrize(("n", "best_of", "accepted"), [
    (1, 1, True), (3, 3, True), (None, 1, True), (1, 2, False), (3, 1, False), (2, 2.0, False), (None, 2, False),
    (1, True, False), (1, -(2**63), False), (1, 10**9, False), (1, 2**64, False),
])  # fmt: skip
def test_best_of_must_equal_n(n: int | None, best_of: object, accepted: bool) -> None:
    if accepted:
        assert completion(n=n, best_of=best_of) == completion(n=n)
    else:
        assert completion_refusal(n=n, best_of=best_of).param == "best_of"


@pytest.mark.parametrize("value", [-(2**63), -1, 10**6, 10**9, 2**63, 2**64, 1.5, "1", True])
def test_extremes_of_counts(value: object) -> None:
    refusal = completion_refusal(best_of=value)
    assert isinstance(refusal, UnsupportedParameter)
    assert refusal.param == "best_of"
    assert completion_refusal(logprobs=value).param == "logprobs"
    assert chat_refusal(logprobs=True, top_logprobs=value).param == "top_logprobs"


def test_a_replaced_field_is_refused_with_the_name_of_the_new_one() -> None:
    for name, new in (("functions", "`tools`"), ("function_call", "`tool_choice`"), ("guided_json", "`json`")):
        refusal = chat_refusal(**{name: {"name": "f"}})
        assert isinstance(refusal, UnsupportedParameter)
        assert new in refusal.message


# --- the canonical form --------------------------------------------------------------------------------------------


def test_canonical_states_what_the_request_stated() -> None:
    fields = {
        "stream": False,
        "n": 1,
        "temperature": 1,
        "stop": "x",
        "logit_bias": {"7": -1},
        "seed": None,
        "user": "me",
    }
    assert json.loads(chat(**fields).canonical()) == {
        "model": "m",
        "messages": [HELLO],
        "stream": False,
        "n": 1,
        "temperature": 1.0,
        "stop": ["x"],
        "logit_bias": {"7": -1.0},
    }


def test_canonical_fills_in_the_token_limit() -> None:
    assert parse_chat(chat().canonical(max_tokens=7)).request.max_tokens == 7
    assert parse_chat(chat(max_completion_tokens=3).canonical(max_tokens=7)).request.max_tokens == 3
    assert chat().canonical(max_tokens=None) == chat().canonical()


def test_canonical_is_compact_utf8() -> None:
    raw = chat(messages=[{"role": "user", "content": "né \U0001f600\u2028"}]).canonical()
    assert raw == '{"model":"m","messages":[{"role":"user","content":"né \U0001f600\u2028"}]}'.encode()


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NAMES = st.text("abc:/.- é", min_size=1, max_size=20)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**31), 10**31)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def numbers(low: float, high: float, **bounds: Any) -> st.SearchStrategy[float]:
    return st.integers(int(low) + 1, int(high)) | st.floats(low, high, width=32, allow_subnormal=False, **bounds)


CALLS = st.fixed_dictionaries(
    {"id": NAMES, "function": st.fixed_dictionaries({"name": NAMES, "arguments": TEXTS})},
    optional={"type": st.just("function")},
)
CONTENTS = TEXTS | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), min_size=1, max_size=3)
MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user"]), "content": CONTENTS},
        optional={"name": NAMES | st.none(), "foo": JSON_VALUES},
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "tool_calls": st.lists(CALLS, min_size=1, max_size=2)},
        optional={"content": CONTENTS | st.none(), "reasoning_content": TEXTS},
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "content": CONTENTS, "tool_call_id": NAMES}),
)
# Names of one letter are no keywords, so any value is a well-formed schema.
SCHEMAS = st.dictionaries(st.text("abcé", max_size=1), JSON_VALUES, max_size=3)
FORMATS = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object"])}),
    st.fixed_dictionaries(
        {
            "type": st.just("json_schema"),
            "json_schema": st.fixed_dictionaries(
                {"name": NAMES, "schema": SCHEMAS},
                optional={"strict": st.booleans() | st.none(), "description": TEXTS},
            ),
        }
    ),
)
SAMPLING = {
    "max_tokens": st.integers(1, 2**31 - 1) | st.none(),
    "n": st.integers(1, 8),
    "stop": TEXTS.filter(bool) | st.lists(TEXTS.filter(bool), max_size=16),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "temperature": numbers(0, 2),
    "top_p": numbers(0, 1, exclude_min=True),
    "top_k": st.integers(0, 1_000_000),
    "min_p": numbers(0, 1),
    "presence_penalty": numbers(-2, 2),
    "frequency_penalty": numbers(-2, 2),
    "repetition_penalty": numbers(0, 10, exclude_min=True),
    "logit_bias": st.dictionaries(st.integers(0, 2**31 - 1).map(str), numbers(-100, 100), max_size=5),
    "ignore_eos": st.booleans(),
    "user": TEXTS,
    "typical_p": numbers(0, 1, exclude_min=True),
    "xtc_probability": numbers(0, 1),
    "xtc_threshold": numbers(0, 1),
    "dry_multiplier": numbers(0, 100),
    "dry_base": numbers(1, 10),
    "dry_allowed_length": st.integers(0, 100),
    "dry_penalty_last_n": st.integers(-1, 100),
    "dry_sequence_breakers": st.lists(TEXTS.filter(bool), min_size=1, max_size=3),
    "mirostat": st.sampled_from([0, 2]),
    "mirostat_tau": numbers(0, 100),
    "mirostat_eta": numbers(0, 1),
    "repeat_last_n": st.integers(-1, 100),
}
STRUCTURES = st.one_of(
    st.fixed_dictionaries({"json": SCHEMAS | SCHEMAS.map(lambda schema: dump_json(schema).decode())}),
    st.fixed_dictionaries({"regex": TEXTS.filter(bool)}),
    st.fixed_dictionaries({"choice": st.lists(TEXTS.filter(bool), min_size=1, max_size=3)}),
    st.fixed_dictionaries({"grammar": TEXTS.filter(bool)}),
)
FORMED = st.one_of(
    st.fixed_dictionaries({}),
    st.fixed_dictionaries({"response_format": FORMATS}),
    st.fixed_dictionaries({"structured_outputs": STRUCTURES}),
)
STREAMED = st.fixed_dictionaries(
    {"stream": st.just(True)},
    optional={"stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()})},
)
HEADS = STREAMED | st.fixed_dictionaries({}, optional={"stream": st.just(False)})
TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": st.text("aZ0_.-", min_size=1, max_size=64)},
                optional={"description": TEXTS, "parameters": SCHEMAS, "strict": st.booleans() | st.none()},
            ),
        }
    ),
    max_size=3,
    unique_by=lambda tool: tool["function"]["name"],
)
CHATS = st.fixed_dictionaries(
    {"model": NAMES, "messages": st.lists(MESSAGES, min_size=1, max_size=4)},
    optional={
        **SAMPLING,
        "tools": TOOLS,
        "tool_choice": st.sampled_from(["none", "auto", None]),
        "parallel_tool_calls": st.booleans(),
        "logprobs": st.booleans(),
        "reasoning_effort": st.sampled_from(["none", "low", "xhigh"]),
        "thinking_token_budget": st.integers(0, 2**31 - 1),
        "chat_template_kwargs": st.dictionaries(
            st.text("abc", min_size=1, max_size=3), st.none() | st.booleans() | st.integers(-9, 9) | TEXTS, max_size=3
        ),
        "documents": st.lists(st.fixed_dictionaries({"text": TEXTS}, optional={"title": TEXTS}), max_size=2),
    },
)
TOKENS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5)
PROMPTS = st.one_of(
    TEXTS.filter(bool),
    st.lists(TEXTS.filter(bool), min_size=1, max_size=4),
    TOKENS,
    st.lists(TOKENS, min_size=1, max_size=4),
)
COMPLETIONS = st.fixed_dictionaries(
    {"model": NAMES, "prompt": PROMPTS},
    optional={**SAMPLING, "logprobs": st.integers(0, 20), "echo": st.booleans(), "suffix": st.just("")},
)


@given(CHATS, HEADS, FORMED)
def test_canonical_chat_is_the_same_request(body: dict[str, Any], head: dict[str, Any], form: dict[str, Any]) -> None:
    request = parse_chat(dump_json({**body, **head, **form})).request
    canonical = request.canonical()
    again = parse_chat(canonical, strict=True)
    assert again.request == request
    assert again.ignored_fields == ()
    assert again.request.canonical() == canonical


@given(COMPLETIONS, HEADS, FORMED)
def test_canonical_completion_is_the_same_request(
    body: dict[str, Any], head: dict[str, Any], form: dict[str, Any]
) -> None:
    request = parse_completion(dump_json({**body, **head, **form})).request
    canonical = request.canonical()
    assert parse_completion(canonical, strict=True).request == request
    assert parse_completion(canonical).request.canonical() == canonical


FIELDS = st.sampled_from(sorted({*ChatRequest.known, *CHAT_POLICY, "prompt", "unheard_of"} - {"model"}))


@given(st.dictionaries(FIELDS, JSON_VALUES, max_size=4))
def test_any_values_are_honoured_or_refused_by_name(fields: dict[str, Any]) -> None:
    body = dump_json({"model": "m", "messages": [HELLO], **fields})
    try:
        parsed = parse_chat(body)
    except InvalidRequest as error:
        assert error.status == 400
        assert len(error.message) <= 200
        assert error.param is None or error.param.split(".")[0].split("[")[0] in fields
        assert "is not valid" not in error.message
    else:
        assert parse_chat(parsed.request.canonical(), strict=True).request == parsed.request
