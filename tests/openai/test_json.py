"""Hostile and broken bodies: each one a 400 that says what is wrong, none of them a crash or a wrong value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.errors import InvalidRequest
from llmserve.openai.json import MAX_CONTAINERS, MAX_DEPTH, MAX_KEYS, MAX_VALUES, dump_json, nesting_depth, parse_json

REFUSED = {
    "nothing": (b"", "empty"),
    "only white space": (b" \n\t", "empty"),
    "byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "utf-16 with mark": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "utf-16 little endian": ('{"a": 1}'.encode("utf-16-le"), "not valid JSON"),
    "utf-16 big endian": ('{"a": 1}'.encode("utf-16-be"), "not valid JSON"),
    "utf-32": ('{"a": 1}'.encode("utf-32-le"), "not valid JSON"),
    "latin-1": (b'{"a": "\xe9"}', "not UTF-8 (byte 7)"),
    "utf-8 cut off": (b'{"a": "\xe2\x82"}', "not UTF-8"),
    "overlong utf-8": (b'"\xc0\x80"', "not UTF-8"),
    "surrogate in utf-8": (b'"\xed\xa0\x80"', "not UTF-8"),
    "duplicate key": (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
    "duplicate key deeper": (b'[{"x": {"a": 1, "a": 1}}]', "twice"),
    "duplicate key by escape": (b'{"a": 1, "\\u0061": 2}', "twice"),
    "NaN": (b"[NaN]", "NaN"),
    "Infinity": (b'{"a": Infinity}', "Infinity"),
    "-Infinity": (b"-Infinity", "-Infinity"),
    "overflow": (b"[1e400]", "too large"),
    "negative overflow": (b"[-1e400]", "too large"),
    "integer of 33 digits": (b"1" * 33, "more than 32 digits"),
    "negative of 33 digits": (b"[-" + b"1" * 33 + b"]", "more than 32 digits"),
    "integer of 5000 digits": (b'{"n": ' + b"9" * 5000 + b"}", "more than 32 digits"),
    "high surrogate": (b'["\\ud800"]', "surrogate"),
    "low surrogate": (b'["\\udc00 x"]', "surrogate"),
    "surrogates swapped": (b'["\\udc00\\ud800"]', "surrogate"),
    "surrogate in a key": (b'{"\\ud83d": 1}', "surrogate"),
    "surrogate deep inside": (b'{"a": [{"b": ["x", "\\uDBFF"]}]}', "surrogate"),
    "surrogate behind a backslash": (b'["\\\\\\ud800"]', "surrogate"),
    "escaped NUL": (b'["\\u0000"]', "U+0000"),
    "escaped NUL in a key": (b'{"a\\u0000": 1}', "U+0000"),
    "raw NUL": (b'["\x00"]', "not valid JSON"),
    "raw line feed in a string": (b'["a\nb"]', "not valid JSON"),
    "trailing text": (b"{} {}", "not valid JSON"),
    "trailing comma": (b'{"a": 1,}', "not valid JSON"),
    "single quotes": (b"{'a': 1}", "not valid JSON"),
    "open string": (b'{"a": "b', "not valid JSON"),
    "open object": (b'{"a": 1', "not valid JSON"),
    "too many closed": (b"]]]]", "not valid JSON"),
    "mixed brackets": (b"[}", "not valid JSON"),
    "bad escape": (b'["\\x41"]', "not valid JSON"),
    "comment": (b"{} // x", "not valid JSON"),
    "65 arrays": (b"[" * 65 + b"]" * 65, "deeper than 64"),
    "65 objects": (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
    "65 open arrays": (b"[" * 65, "deeper than 64"),
    "100 arrays after closing ones": (b"]" * 100 + b"[" * 200, "deeper than 64"),
    "deep behind an odd string": (b'["\\\\", "\\"[", ' + b"[" * 80 + b"]" * 80 + b"]", "deeper than 64"),
    "a million arrays": (b"[" * 1_000_000, f"more than {MAX_CONTAINERS} objects and arrays"),
    "many empty arrays": (b"[" + b"[]," * MAX_CONTAINERS + b"[]]", f"more than {MAX_CONTAINERS} objects and arrays"),
    "many values": (b"[" + b"1," * (MAX_VALUES + 1) + b"1]", f"more than {MAX_VALUES} values"),
    "many strings": (b"[" + b'"",' * (MAX_VALUES + MAX_KEYS + 1) + b"1]", f"more than {MAX_VALUES} values"),
    "many keys": (b"{" + b'"k":1,' * (MAX_KEYS + 1) + b'"k":1}', f"more than {MAX_KEYS} keys"),
}


@pytest.mark.parametrize(("body", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(body)
    assert reason in caught.value.message
    assert len(caught.value.message) <= 200
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("depth", [10**power for power in range(2, 7)])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_refuses_any_depth(opening: bytes, depth: int) -> None:
    with pytest.raises(InvalidRequest):
        parse_json(opening * depth)


ACCEPTED: list[tuple[bytes, Any]] = [
    (b"null", None),
    (b' {"a": [1, 2.5, true, "x"]}\n', {"a": [1, 2.5, True, "x"]}),
    (b"1" * 32, int("1" * 32)),
    (b"-" + b"1" * 32, -int("1" * 32)),
    (b"0." + b"1" * 60, float("0." + "1" * 60)),
    (b"1e-400", 0.0),
    (b'"' + b"7" * 5000 + b'"', "7" * 5000),
    ('"\U0001f600 é \u2028"'.encode(), "\U0001f600 é \u2028"),
    (b'"\\ud83d\\ude00"', "\U0001f600"),
    (b'"\\\\u0000 \\\\ud800"', "\\u0000 \\ud800"),
    (b'"[[[[ \\" {{{{ \\\\"', '[[[[ " {{{{ \\'),
    (b'"' + b"[" * 1000 + b'"', "[" * 1000),
    (b'["\\\\", "[' + b"[" * 100 + b'"]', ["\\", "[" + "[" * 100]),
    (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
    (b'{"": {"": 1}}', {"": {"": 1}}),
]


@pytest.mark.parametrize(("body", "value"), ACCEPTED)
def test_accepts(body: bytes, value: object) -> None:
    assert parse_json(body) == value


# Categories Cs are the surrogates, which no JSON text of ours may hold.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**31), 10**31)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=30,
)


@given(VALUES)
def test_reads_what_it_writes(value: object) -> None:
    assert parse_json(dump_json(value)) == value


@given(VALUES)
def test_reads_what_others_write(value: object) -> None:
    assert parse_json(json.dumps(value, indent=1).encode()) == value


@given(st.binary(max_size=64) | st.text('[]{}":,\\u0d8dc1e-. tn', max_size=64).map(str.encode))
def test_never_fails_otherwise_than_by_refusing(body: bytes) -> None:
    try:
        value = parse_json(body)
    except InvalidRequest as error:
        assert len(error.message) <= 200
    else:
        assert nesting_depth(value) <= MAX_DEPTH
        assert value == json.loads(body)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"a": ["\udfff"]}])
def test_does_not_write_what_is_not_json(value: object) -> None:
    with pytest.raises(ValueError):
        dump_json(value)


def test_writes_compact_utf8() -> None:
    assert dump_json({"a": [1, "é"], "b": None}) == '{"a":[1,"é"],"b":null}'.encode()


@pytest.mark.parametrize(
    ("value", "depth"), [(1, 0), ("[[", 0), ([], 1), ({"a": {}}, 2), ([1, {"a": [1]}, []], 3)], ids=repr
)
def test_nesting_depth(value: object, depth: int) -> None:
    assert nesting_depth(value) == depth
