"""`GET /openapi.json`: every route, described from the schemas that check its requests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmserve import __version__
from llmserve.api.dialect import json_response
from llmserve.dialects.anthropic.requests import CountTokensRequest, MessagesRequest
from llmserve.dialects.ollama.requests import (
    OllamaChatRequest,
    OllamaCopyRequest,
    OllamaCreateRequest,
    OllamaDeleteRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaPullRequest,
    OllamaShowRequest,
)
from llmserve.dialects.responses.requests import InputTokensRequest, ResponsesRequest
from llmserve.openai.batches import BatchRequest, FileRequest
from llmserve.openai.embeddings import EmbeddingRequest
from llmserve.openai.requests import (
    MAX_STOP_CHARACTERS,
    MAX_STOP_STRINGS,
    ChatRequest,
    CompletionRequest,
    ModelRequest,
)
from llmserve.openai.rerank import MAX_RANKED_DOCUMENTS, RerankRequest
from llmserve.openai.schema import SMALLEST_NORMAL_FLOAT32, Schema
from llmserve.openai.tokens import DetokenizeRequest, TokenizeChatRequest, TokenizeRequest

_SCHEMAS = "#/components/schemas/"
_JSON = "application/json"
_EVENTS = "text/event-stream"
_LINES = "application/x-ndjson"
_FORM = "multipart/form-data"

# The body of every route that reads one.
BODIES: Mapping[tuple[str, str], type[Schema]] = MappingProxyType(
    {
        ("POST", "/v1/chat/completions"): ChatRequest,
        ("POST", "/v1/completions"): CompletionRequest,
        ("POST", "/v1/embeddings"): EmbeddingRequest,
        ("POST", "/v1/rerank"): RerankRequest,
        ("POST", "/rerank"): RerankRequest,
        ("POST", "/tokenize"): TokenizeRequest,
        ("POST", "/detokenize"): DetokenizeRequest,
        ("POST", "/v1/responses"): ResponsesRequest,
        ("POST", "/v1/responses/input_tokens"): InputTokensRequest,
        ("POST", "/v1/batches"): BatchRequest,
        ("POST", "/v1/files"): FileRequest,
        ("POST", "/v1/messages"): MessagesRequest,
        ("POST", "/v1/messages/count_tokens"): CountTokensRequest,
        ("POST", "/api/chat"): OllamaChatRequest,
        ("POST", "/api/generate"): OllamaGenerateRequest,
        ("POST", "/api/embed"): OllamaEmbedRequest,
        ("POST", "/api/embeddings"): OllamaEmbeddingsRequest,
        ("POST", "/api/show"): OllamaShowRequest,
        ("POST", "/api/pull"): OllamaPullRequest,
        ("POST", "/api/copy"): OllamaCopyRequest,
        ("POST", "/api/create"): OllamaCreateRequest,
        ("DELETE", "/api/delete"): OllamaDeleteRequest,
        ("POST", "/models"): ModelRequest,
        ("POST", "/models/load"): ModelRequest,
        ("POST", "/models/unload"): ModelRequest,
        ("POST", "/admin/load"): ModelRequest,
        ("POST", "/admin/pull"): ModelRequest,
        ("POST", "/admin/stop"): ModelRequest,
    }
)
# A second form that a body may have instead.
_OTHER_FORMS: Mapping[tuple[str, str], type[Schema]] = MappingProxyType({("POST", "/tokenize"): TokenizeChatRequest})
_UPLOADS = frozenset({("POST", "/v1/files")})
QUERIES: Mapping[tuple[str, str], tuple[str, ...]] = MappingProxyType(
    {
        ("DELETE", "/models"): ("model",),
        ("GET", "/admin/plan"): ("model",),
        ("GET", "/v1/responses/{id}"): ("stream", "starting_after"),
        ("GET", "/v1/responses/{id}/input_items"): ("limit", "order", "after"),
        ("GET", "/v1/files"): ("limit", "order", "after", "purpose"),
        ("GET", "/v1/batches"): ("limit", "after"),
    }
)
# Those that say nothing without their query.
_NEEDED_QUERIES = frozenset({("DELETE", "/models"), ("GET", "/admin/plan")})
_ANSWERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "/v1/chat/completions": (_JSON, _EVENTS),
        "/v1/completions": (_JSON, _EVENTS),
        "/v1/responses": (_JSON, _EVENTS),
        "/v1/responses/{id}": (_JSON, _EVENTS),
        "/v1/messages": (_JSON, _EVENTS),
        "/api/chat": (_JSON, _LINES),
        "/api/generate": (_JSON, _LINES),
        "/api/pull": (_JSON, _LINES),
        "/api/create": (_JSON, _LINES),
        # Their status says it all.
        "/api/copy": (),
        "/api/delete": (),
        "/admin/pull": (_EVENTS,),
        "/v1/files/{id}/content": ("application/octet-stream",),
        "/metrics": ("text/plain",),
        "/": ("text/plain",),
    }
)
# What may go wrong, anywhere: README and `errors.py` tell when.
_STATUSES = (400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 429, 431, 500, 502, 503, 504, 507)

# What validators accept beyond the form that a field is kept in.
_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
_STOPS = {"anyOf": [_STOP, {"type": "array", "maxItems": MAX_STOP_STRINGS, "items": _STOP}]}
_TEXT_OR_PARTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
_PROMPTS = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
        {"type": "array", "minItems": 1, "items": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
    ]
}
_DOCUMENT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
_DOCUMENTS = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_RANKED_DOCUMENTS,
    "items": {"anyOf": [{"type": "string"}, _DOCUMENT]},
}
_WIDER: Mapping[tuple[str, str], Mapping[str, Any]] = MappingProxyType(
    {
        **{(name, "stop"): _STOPS for name in ("ChatRequest", "CompletionRequest", "OllamaOptions")},
        **{
            (f"Ollama{name}Request", "keep_alive"): {"type": ["number", "string", "null"]}
            for name in ("Chat", "Generate", "Embed", "Embeddings")
        },
        **{(name, "content"): _TEXT_OR_PARTS for name in ("Message", "AnthropicMessage", "Block", "InputItem")},
        ("MessagesRequest", "system"): _TEXT_OR_PARTS,
        ("CountTokensRequest", "system"): _TEXT_OR_PARTS,
        ("InputItem", "output"): _TEXT_OR_PARTS,
        **{(name, "input"): _TEXT_OR_PARTS for name in ("ResponsesRequest", "InputTokensRequest")},
        ("CompletionRequest", "prompt"): _PROMPTS,
        ("EmbeddingRequest", "input"): _PROMPTS,
        ("OllamaEmbedRequest", "input"): _PROMPTS,
        ("RerankRequest", "documents"): _DOCUMENTS,
        ("Message", "role"): {"enum": ["system", "developer", "user", "assistant", "tool"]},
    }
)
_BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


@dataclass(frozen=True, slots=True)
class _Error:
    """The shape of errors of the routes whose paths begin with one of `prefixes`."""

    name: str
    prefixes: tuple[str, ...]
    properties: Mapping[str, Any]


_ERRORS = (
    _Error("OllamaError", ("/api/",), {"error": {"type": "string"}}),
    _Error(
        "AnthropicError",
        ("/v1/messages",),
        {
            "type": {"const": "error"},
            "error": {"type": "object", "required": ["type", "message"]},
            "request_id": {"type": ["string", "null"]},
        },
    ),
    _Error("Error", ("/",), {"error": {"type": "object", "required": ["message", "type", "param", "code"]}}),
)


class OpenApiRoute:
    """The endpoint of the description; `routes` are those it describes, itself among them."""

    def __init__(self) -> None:
        self._routes: tuple[Route, ...] = ()
        self._document: dict[str, Any] | None = None

    def route(self) -> Route:
        return Route("/openapi.json", self.endpoint, methods=["GET"])

    def describe(self, routes: Iterable[Route]) -> None:
        """Say which routes there are, before the first request."""
        self._routes = tuple(routes)

    async def endpoint(self, request: Request) -> Response:
        if self._document is None:
            self._document = await asyncio.to_thread(document, self._routes)
        return json_response(self._document)


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of `routes`."""
    paths: dict[str, dict[str, Any]] = {}
    for route in (route for route in routes if route.include_in_schema):
        for method in sorted((route.methods or set()) - {"HEAD"}):
            path = paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})
            path.setdefault(method.lower(), _operation(method, route.path))
    return {
        "openapi": "3.1.0",
        "info": {"title": "llmserve", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**_schemas(), **{error.name: _error_schema(error) for error in _ERRORS}},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"x-api-key": []}],
    }


def _operation(method: str, path: str) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(path)
    ] + [
        {"name": name, "in": "query", "required": (method, path) in _NEEDED_QUERIES, "schema": {"type": "string"}}
        for name in QUERIES.get((method, path), ())
    ]
    error = next(shape for shape in _ERRORS if path.startswith(shape.prefixes))
    failure = {"description": "Refused, and why.", "content": {_JSON: {"schema": {"$ref": _SCHEMAS + error.name}}}}
    answers: dict[str, Any] = {media_type: {} for media_type in _ANSWERS.get(path, (_JSON,))}
    operation: dict[str, Any] = {
        "responses": {
            "200": {"description": "The answer.", "content": answers},
            **{str(status): failure for status in _STATUSES},
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if (body := BODIES.get((method, path))) is not None:
        operation["summary"] = (body.__doc__ or "").partition("\n")[0]
        schema: dict[str, Any] = {"$ref": _SCHEMAS + body.__name__}
        if (other := _OTHER_FORMS.get((method, path))) is not None:
            schema = {"anyOf": [schema, {"$ref": _SCHEMAS + other.__name__}]}
        if (method, path) in _UPLOADS:
            file = {"type": "string", "contentMediaType": "application/octet-stream"}
            schema = {"allOf": [schema, {"required": ["file"], "properties": {"file": file}}]}
        media_type = _FORM if (method, path) in _UPLOADS else _JSON
        operation["requestBody"] = {"required": True, "content": {media_type: {"schema": schema}}}
    return operation


def _schemas() -> dict[str, Any]:
    from pydantic.json_schema import models_json_schema

    kinds = list(dict.fromkeys([*BODIES.values(), *_OTHER_FORMS.values()]))
    _, defined = models_json_schema([(kind, "validation") for kind in kinds], ref_template=_SCHEMAS + "{model}")
    schemas: dict[str, Any] = defined["$defs"]
    for name, schema in schemas.items():
        # Unknown fields are listed in a header rather than refused, unless the server is strict.
        schema.pop("additionalProperties", None)
        for field, form in schema["properties"].items():
            schema["properties"][field] = _form(form, _WIDER.get((name, field)))
    return schemas


def _form(form: Mapping[str, Any], wider: Mapping[str, Any] | None) -> dict[str, Any]:
    """A field's schema with the names that JSON Schema has for bounds, or as wide as what its validator takes."""
    kept = {key: form[key] for key in ("title", "description") if key in form}
    if wider is not None:
        return {**kept, **wider}
    # null is the same as absent, and so are an empty list and an object: they need no default to say so.
    plain = (bool, int, float, str)
    return {key: value for key, value in _named_bounds(form).items() if key != "default" or isinstance(value, plain)}


def _named_bounds(value: Any) -> Any:
    if isinstance(value, Mapping):
        named = {_BOUNDS.get(key, key): _named_bounds(item) for key, item in value.items()}
        if named.get("type") == "number" and named.get("exclusiveMinimum") == 0:
            # Nothing that 32 bits cannot hold.
            del named["exclusiveMinimum"]
            named["minimum"] = SMALLEST_NORMAL_FLOAT32
        return named
    return [_named_bounds(item) for item in value] if isinstance(value, list) else value


def _error_schema(error: _Error) -> dict[str, Any]:
    return {"type": "object", "properties": dict(error.properties), "required": list(error.properties)}
