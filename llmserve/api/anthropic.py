"""The routes of Anthropic's API."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from llmserve.api.dialect import Dialect, json_response
from llmserve.api.translated import Translated
from llmserve.dialects.anthropic.answers import CountTranslation, MessageTranslation
from llmserve.dialects.anthropic.models import model_object, model_page
from llmserve.dialects.anthropic.requests import CountTokensRequest, MessagesRequest
from llmserve.openai.adapters import named_with, split_adapter, with_each_adapter

VERSION_HEADER = b"anthropic-version"


class AnthropicRoutes:
    """The endpoints below `/v1/messages`, and `/v1/models` for who speaks this dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def table(self) -> list[Route]:
        return [
            Route("/v1/messages", self.messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", self.count_tokens, methods=["POST"]),
            VersionedRoute("/v1/models", self.models, methods=["GET"]),
            VersionedRoute("/v1/models/{model:path}", self.model, methods=["GET"]),
        ]

    async def messages(self, request: Request) -> ASGIApp:
        parsed = await self._dialect.read(request, MessagesRequest)
        asked = parsed.request
        call = await self._dialect.prepare(request, asked.internal)
        translation = MessageTranslation(call.request_id, asked.model, asked.stop_sequences)
        return Translated(self._dialect.relay(call, parsed.ignored_fields), translation)

    async def count_tokens(self, request: Request) -> ASGIApp:
        parsed = await self._dialect.read(request, CountTokensRequest)
        call = await self._dialect.prepare(request, parsed.request.counted)
        return Translated(self._dialect.relay(call, parsed.ignored_fields), CountTranslation(call.request_id))

    async def models(self, request: Request) -> Response:
        def page() -> dict[str, Any]:
            entries = self._dialect.entries
            return model_page(
                [
                    model_object(named, entries.info(model))
                    for model in self._dialect.store.list()
                    for named in with_each_adapter(model)
                ]
            )

        return json_response(await asyncio.to_thread(page))

    async def model(self, request: Request) -> Response:
        def one() -> dict[str, Any]:
            asked = request.path_params["model"]
            model = self._dialect.store.find(asked)
            return model_object(named_with(model, split_adapter(asked)[1]), self._dialect.entries.info(model))

        return json_response(await asyncio.to_thread(one))


class VersionedRoute(Route):
    """A route that is there for requests with Anthropic's version header only."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if speaks_anthropic(scope) else (Match.NONE, {})


def speaks_anthropic(scope: Scope) -> bool:
    return any(name == VERSION_HEADER for name, _ in scope["headers"])
