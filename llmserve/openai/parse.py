"""From the bytes of a request to a value that is safe to act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from llmserve.errors import InvalidRequest
from llmserve.openai.embeddings import EmbeddingRequest
from llmserve.openai.json import parse_json
from llmserve.openai.requests import ChatRequest, CompletionRequest
from llmserve.openai.rerank import RerankRequest
from llmserve.openai.schema import IgnoredFields, Schema, invalid_request
from llmserve.openai.tokens import DetokenizeRequest, TokenizeChatRequest, TokenizeRequest

R = TypeVar("R", bound=Schema)


@dataclass(frozen=True, slots=True)
class Parsed(Generic[R]):
    """A request and the names of the fields in it that nobody knows, printable and at most 32 of them."""

    request: R
    ignored_fields: tuple[str, ...]


def parse_chat(raw: bytes, *, strict: bool = False) -> Parsed[ChatRequest]:
    """The chat request in `raw`. `strict` refuses unknown fields instead of listing them.

    Raises `InvalidRequest` (`UnsupportedParameter` for a field of the refused list) with `param` naming the field.
    """
    return parse_request(ChatRequest, raw, strict=strict)


def parse_completion(raw: bytes, *, strict: bool = False) -> Parsed[CompletionRequest]:
    """The text completion request in `raw`; otherwise as `parse_chat`."""
    return parse_request(CompletionRequest, raw, strict=strict)


def parse_embedding(raw: bytes, *, strict: bool = False) -> Parsed[EmbeddingRequest]:
    """The embedding request in `raw`; otherwise as `parse_chat`."""
    return parse_request(EmbeddingRequest, raw, strict=strict)


def parse_rerank(raw: bytes, *, strict: bool = False) -> Parsed[RerankRequest]:
    """The rerank request in `raw`; otherwise as `parse_chat`."""
    return parse_request(RerankRequest, raw, strict=strict)


def parse_tokenize(raw: bytes, *, strict: bool = False) -> Parsed[TokenizeRequest] | Parsed[TokenizeChatRequest]:
    """The tokenise request in `raw`, of a chat where it has `messages`; otherwise as `parse_chat`."""
    body = _object(raw)
    if body.get("messages") is not None:
        return _validated(TokenizeChatRequest, body, strict=strict)
    return _validated(TokenizeRequest, body, strict=strict)


def parse_detokenize(raw: bytes, *, strict: bool = False) -> Parsed[DetokenizeRequest]:
    """The detokenise request in `raw`; otherwise as `parse_chat`."""
    return parse_request(DetokenizeRequest, raw, strict=strict)


def parse_request(kind: type[R], raw: bytes, *, strict: bool = False) -> Parsed[R]:
    """The request of the schema `kind` in `raw`; otherwise as `parse_chat`."""
    return _validated(kind, _object(raw), strict=strict)


def _object(raw: bytes) -> dict[str, Any]:
    body = parse_json(raw)
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body


def _validated(kind: type[R], body: dict[str, Any], *, strict: bool) -> Parsed[R]:
    ignored = IgnoredFields()
    try:
        request = kind.model_validate(body, context=ignored)
    except ValidationError as error:
        raise invalid_request(error) from None
    if strict and ignored.names:
        name = ignored.names[0]
        raise InvalidRequest(
            f"`{name}` is not a known field", param=name, hint="known fields are listed in docs/api.md"
        )
    return Parsed(request, ignored.names)
