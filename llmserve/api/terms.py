"""The terms a client states for a request besides its body: headers that any of the dialects may carry."""

from __future__ import annotations

import hashlib
import math

from starlette.types import Scope

from llmserve.errors import InvalidRequest
from llmserve.fleet.demand import Demand
from llmserve.types import ModelKind

_PRIORITIES = {b"normal": False, b"background": True}
_LONGEST_SECONDS = 31_536_000.0
_KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key"})


def read_demand(scope: Scope, kind: ModelKind | None, keep_alive_seconds: float | None = None) -> Demand:
    """What the request of `scope` asks of the fleet. `keep_alive_seconds` is what its body says, if it may.

        X-LLMServe-Priority: background             wait behind all requests that are `normal`
        X-LLMServe-Max-Queue-Seconds: 10            503 when no place was free by then
        X-LLMServe-Keep-Alive: 600                  how long the model stays loaded afterwards (-1: for ever)

    Raises `InvalidRequest` for other values, naming the header.
    """
    headers = dict(scope["headers"])
    priority = headers.get(b"x-llmserve-priority", b"normal")
    if priority not in _PRIORITIES:
        raise InvalidRequest("X-LLMServe-Priority must be `normal` or `background`", param="X-LLMServe-Priority")
    kept = _seconds(headers, "X-LLMServe-Keep-Alive", -1.0)
    return Demand(
        kind=kind,
        client=_client(scope, headers),
        background=_PRIORITIES[priority],
        max_wait_seconds=_seconds(headers, "X-LLMServe-Max-Queue-Seconds", 0.0),
        keep_alive_seconds=keep_alive_seconds if kept is None else kept,
    )


def _client(scope: Scope, headers: dict[bytes, bytes]) -> str:
    """Who takes turns with others: the holder of a key, or the address where there are no keys."""
    keys = b"\n".join(value for name, value in sorted(headers.items()) if name in _KEY_HEADERS)
    if keys:
        return hashlib.sha256(keys).hexdigest()[:16]
    return str(scope["client"][0]) if scope.get("client") else ""


def _seconds(headers: dict[bytes, bytes], name: str, least: float) -> float | None:
    text = headers.get(name.lower().encode("ascii"))
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not least <= seconds <= _LONGEST_SECONDS:
        raise InvalidRequest(f"{name} must be a number of seconds, from {least:g} to a year", param=name)
    return seconds
