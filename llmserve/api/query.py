"""What stands behind the question mark, and the pages of lists that it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, parse_qsl

from starlette.requests import Request

from llmserve.errors import InvalidRequest


def read_query(request: Request) -> Mapping[str, str]:
    return dict(parse_qsl(request.scope["query_string"].decode("latin-1")))


def named_model(request: Request) -> str:
    """The model in the query. Raises `InvalidRequest` unless there is exactly one."""
    named: list[str] = parse_qs(request.scope["query_string"].decode("latin-1")).get("model", [])
    if len(named) != 1:
        raise InvalidRequest("the query must name one model: `?model=NAME`", param="model")
    return named[0]


def number(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 10 or not least <= int(text) <= most:
        raise InvalidRequest(f"`{name}` must be a number from {least} to {most}", param=name)
    return int(text)


def order_is_descending(query: Mapping[str, str]) -> bool:
    """By `order`, which is `desc` where it is not stated. Raises `InvalidRequest`."""
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidRequest("`order` must be 'asc' or 'desc'", param="order")
    return order == "desc"


def page(items: Sequence[dict[str, Any]], limit: int, after: str | None, *, descending: bool) -> dict[str, Any]:
    """A page of a list, as OpenAI has it. `after` is the id of the last one seen; one that is unknown is refused."""
    ordered = list(reversed(items)) if descending else list(items)
    if after is not None:
        place = next((index for index, item in enumerate(ordered) if item["id"] == after), None)
        if place is None:
            raise InvalidRequest("`after` is not the id of an item in the list", param="after")
        ordered = ordered[place + 1 :]
    shown = ordered[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(ordered) > limit,
    }
