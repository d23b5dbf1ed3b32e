"""JSON from files that nobody vouches for: what it may cost is known before it is parsed."""

from __future__ import annotations

import json
from typing import Any, NoReturn


class UnsoundJson(ValueError):
    """The text is no JSON, or more of it than is accepted; says which in a few words."""


def parse_bounded(content: bytes, *, items: int) -> Any:
    """The value of strict JSON: no NaN, no key twice. Raises `UnsoundJson`, also where it may have over `items` values.

    Every value but the first follows a comma, a bracket or a brace, and none takes more than about 100 bytes beside
    its text, so counting those bounds the memory before anything is made.
    """
    most = content.count(b",") + content.count(b"[") + content.count(b"{")
    if most > items:
        raise UnsoundJson(f"it has more than {items:,} values")
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object)
    except RecursionError:
        raise UnsoundJson("it is nested too deep") from None
    except UnsoundJson:
        raise
    except UnicodeDecodeError as error:
        raise UnsoundJson("it is not UTF-8") from error
    except ValueError as error:
        raise UnsoundJson("it is not JSON") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise UnsoundJson("a key occurs twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise UnsoundJson(f"{name} is not JSON")
