"""From the bytes of a request to a value that is safe to act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import ValidationError

from llmserve.errors import InvalidRequest
from llmserve.openai.embeddings import EmbeddingRequest
from llmserve.openai.json import parse_json
from llmserve.openai.requests import ChatRequest, CompletionRequest
from llmserve.openai.rerank import RerankRequest
from llmserve.openai.schema import IgnoredFields, Schema, invalid_request
from llmserve.openai.tokens import DetokenizeRequest, TokenizeRequest

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


def parse_tokenize(raw: bytes, *, strict: bool = False) -> Parsed[TokenizeRequest]:
    """The tokenise request in `raw`; otherwise as `parse_chat`."""
    return parse_request(TokenizeRequest, raw, strict=strict)


def parse_detokenize(raw: bytes, *, strict: bool = False) -> Parsed[DetokenizeRequest]:
    """The detokenise request in `raw`; otherwise as `parse_chat`."""
    return parse_request(DetokenizeRequest, raw, strict=strict)


def parse_request(kind: type[R], raw: bytes, *, strict: bool = False) -> Parsed[R]:
    """The request of the schema `kind` in `raw`; otherwise as `parse_chat`."""
    body = parse_json(raw)
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
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
