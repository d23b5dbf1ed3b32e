"""What a dialect gives the gateway for one request: the request in our words, and how its answer reads in theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import ValidationError

from llmserve.errors import InvalidRequest
from llmserve.openai.json import parse_json
from llmserve.openai.requests import ChatRequest, ModelRequest
from llmserve.openai.schema import invalid_request

R = TypeVar("R", bound=ModelRequest)

# `message`, `type`, `param` and `code` of an error, as OpenAI has them.
ErrorFields = Mapping[str, Any]


class Translation(Protocol):
    """The answer to one request, in its dialect. Used for one answer only, streamed or whole."""

    stream_type: ClassVar[bytes]

    def stream(self, events: bytes) -> bytes:
        """What the whole server-sent events in `events`, as a worker sends them, are in the dialect."""

    def keep_alive(self) -> bytes:
        """What says that the server is still at work; empty where the dialect has no word for that."""

    def whole(self, body: bytes) -> bytes:
        """The answer that a worker's JSON `body` is in the dialect."""

    def error(self, status: int, body: bytes) -> bytes:
        """The body of an error with this status; `body` has OpenAI's shape."""


def chat_request(fields: Mapping[str, Any]) -> ChatRequest:
    """The internal chat request that states `fields`; otherwise as `internal_request`."""
    return internal_request(ChatRequest, fields)


def internal_request(kind: type[R], fields: Mapping[str, Any]) -> R:
    """The internal request of this kind that states `fields`. Raises `InvalidRequest` for what it refuses."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise invalid_request(error) from None


def error_fields(body: bytes) -> ErrorFields:
    """The fields of an error body in OpenAI's shape; a plain message where it has another."""
    try:
        value = parse_json(body)
    except InvalidRequest:
        value = None
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict):
        return error
    return {"message": error if isinstance(error, str) else "the request failed", "type": "server_error"}
