"""JSON from strangers, and JSON for them.

The standard library's parser is fast but trusting: it recurses as deep as the text asks, lets the last of two equal
keys win, reads NaN, turns 1e400 into infinity and returns half a surrogate pair that no encoder can write again. Here
all of that is a 400 before or while it parses. Structural limits are checked on the text's skeleton (what is left
outside the strings), so that nothing is allocated for a body that will be refused.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from itertools import accumulate
from typing import NoReturn

from llmserve.errors import InvalidRequest

MAX_DEPTH = 64
MAX_KEYS = 100_000
MAX_CONTAINERS = 100_000
MAX_VALUES = 1_000_000
MAX_INTEGER_DIGITS = 32

_OBJECTS_AS_ARRAYS = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_BETWEEN_BRACKETS = (ord("[") + ord("]")) // 2
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_DIGITS_RUN = b"0" * (MAX_INTEGER_DIGITS + 1)
_LONG_INTEGER = re.compile(rb"(?<![.0-9])[0-9]{%d}" % (MAX_INTEGER_DIGITS + 1))


def parse_json(raw: bytes) -> object:
    """The value that `raw` holds: str, int, float, bool, None, list or dict, nested at most `MAX_DEPTH` deep.

    Strings and keys hold neither U+0000 nor lone surrogates, keys are unique in their object, numbers are finite.
    A request of 25 KB takes about 0.3 ms, a hostile one of 10 MB up to 0.4 s: a large body belongs in a thread.
    Raises `InvalidRequest` for anything else; the message never repeats more than a few characters of the input.
    """
    text = _decode(raw)
    _check_structure(raw)
    try:
        value: object = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        message = f"the body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise InvalidRequest(message) from None
    if "\\u" in text:
        # Only an escape can bring these characters in: as bytes they are not UTF-8, or a control character.
        _check_strings(value)
    return value


def dump_json(value: object) -> bytes:
    """`value` as compact UTF-8. Raises `ValueError` for NaN, infinity, a cycle or a lone surrogate."""
    return _ENCODER.encode(value).encode()


def dump_ascii_json(value: object) -> str:
    """`value` as compact JSON in ASCII, for event streams; otherwise as `dump_json`.

    Some clients split their input at U+2028 and U+0085 too, which no JSON rule makes an encoder escape.
    """
    return _ASCII_ENCODER.encode(value)


def nesting_depth(value: object) -> int:
    """How deep lists and dicts are nested in a parsed value; 0 for a plain one."""
    depth = 0
    level = [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def _decode(raw: bytes) -> str:
    if not raw.strip():
        raise InvalidRequest("the body is empty, expected JSON")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 (byte {error.start})") from None
    if text.startswith("\ufeff"):
        raise InvalidRequest("the body starts with a byte order mark, expected plain UTF-8")
    return text


def _check_structure(raw: bytes) -> None:
    """Bound what parsing `raw` may allocate and how deep it may recurse.

    In text that is not JSON the skeleton may differ from what the parser sees, but only behind the first error, where
    the parser stops.
    """
    text = raw
    if b"\\" in raw:
        # Escaped backslashes go first, so that a backslash still standing before a quote does escape it.
        text = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if text.count(b'"') > 2 * (MAX_KEYS + MAX_VALUES):
        raise InvalidRequest(f"the body holds more than {MAX_VALUES} values")
    skeleton = b"".join(text.split(b'"')[::2])
    brackets = skeleton.translate(_OBJECTS_AS_ARRAYS, _ALL_BUT_BRACKETS)
    for count, limit, what in (
        (skeleton.count(b":"), MAX_KEYS, "keys"),
        (skeleton.count(b","), MAX_VALUES, "values"),
        (len(brackets) // 2, MAX_CONTAINERS, "objects and arrays"),
    ):
        if count > limit:
            raise InvalidRequest(f"the body holds more than {limit} {what}")
    if _is_deeper(brackets, MAX_DEPTH):
        raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
    # A plain search finds the rare candidates, so that most bodies never pay for the expression.
    if _DIGITS_RUN in skeleton.translate(_DIGITS_AS_ZEROS) and _LONG_INTEGER.search(skeleton):
        raise InvalidRequest(f"the body holds an integer of more than {MAX_INTEGER_DIGITS} digits")


def _is_deeper(brackets: bytes, limit: int) -> bool:
    """Whether `brackets`, made of `[` and `]` alone, nest deeper than `limit`."""
    rest = brackets
    for _ in range(limit):
        rest = rest.replace(b"[]", b"")
    # An empty rest, the usual case, is decided without a loop over bytes; otherwise too deep or not balanced.
    return bool(rest) and max(accumulate(_BETWEEN_BRACKETS - bracket for bracket in brackets)) > limit


def _check_strings(value: object) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if "\0" in item:
                raise InvalidRequest("the body holds the character U+0000")
            try:
                item.encode()
            except UnicodeEncodeError:
                raise InvalidRequest("the body holds half of a surrogate pair, which is not a character") from None
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise InvalidRequest(f"the body holds the key {twice[:64]!a} twice in one object")
    return result


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise InvalidRequest("the body holds a number that is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise InvalidRequest(f"the body holds {name}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_ASCII_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
