"""The routes of OpenAI's Responses API."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from llmserve.api.background import BackgroundResponse, FollowedResponse
from llmserve.api.dialect import Dialect, json_response
from llmserve.api.query import number, order_is_descending, page, read_query
from llmserve.api.response_store import FILE_NAME, KeptResponse, ResponseStore
from llmserve.api.translated import Translated
from llmserve.dialects.responses.answers import CountTranslation, ResponseTranslation
from llmserve.dialects.responses.items import shown_items
from llmserve.dialects.responses.requests import InputTokensRequest, ResponsesRequest
from llmserve.dialects.responses.response import FINAL, ended, new_response
from llmserve.errors import InvalidRequest, NotFound, TooManyRequests
from llmserve.settings import home_directory

_log = logging.getLogger(__name__)

_MOST_IN_BACKGROUND = 256
_DEFAULT_PAGE = 20
_LARGEST_PAGE = 100


class ResponsesRoutes:
    """The endpoints below `/v1/responses`. `close` ends what is written in the background."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._store = ResponseStore(home_directory(dialect.gateway.settings) / FILE_NAME)
        self._background: dict[str, BackgroundResponse] = {}

    def table(self) -> list[Route]:
        return [
            Route("/v1/responses", self.create, methods=["POST"]),
            Route("/v1/responses/input_tokens", self.input_tokens, methods=["POST"]),
            Route("/v1/responses/{id}", self.retrieve, methods=["GET"]),
            Route("/v1/responses/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/responses/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/v1/responses/{id}/input_items", self.input_items, methods=["GET"]),
        ]

    async def close(self) -> None:
        """End what is being written in the background, and the store."""
        for background in list(self._background.values()):
            await background.cancel()
        await self._store.close()

    async def create(self, request: Request) -> ASGIApp:
        parsed = await self._dialect.read(request, ResponsesRequest)
        asked = parsed.request
        if asked.background and len(self._background) >= _MOST_IN_BACKGROUND:
            raise TooManyRequests(f"{_MOST_IN_BACKGROUND} responses are being written in the background", retry_after=5)
        earlier = await self._earlier(asked)
        id = f"resp_{secrets.token_hex(24)}"
        response = new_response(asked, id, int(time.time()))
        items = shown_items(asked.input, id)
        # In the background somebody may come to listen.
        stream = asked.stream or asked.background
        call = await self._dialect.prepare(request, lambda: asked.internal([*earlier, *items], stream=stream))
        translation = ResponseTranslation(response)
        relay = self._dialect.relay(call, parsed.ignored_fields)
        if asked.background:
            background = BackgroundResponse(Translated(relay, translation), translation, request.scope)
            return await self._in_background(background, items, stream=asked.stream)
        if not asked.store:
            return Translated(relay, translation)
        kept = False

        async def keep() -> None:
            nonlocal kept
            if translation.is_final and not kept:
                kept = True
                await self._keep(translation.response, items)

        return Translated(relay, translation, keep)

    async def input_tokens(self, request: Request) -> ASGIApp:
        parsed = await self._dialect.read(request, InputTokensRequest)
        asked = parsed.request
        items = [*await self._earlier(asked), *shown_items(asked.input, "resp_counted")]
        call = await self._dialect.prepare(request, lambda: asked.counted(items))
        return Translated(self._dialect.relay(call, parsed.ignored_fields), CountTranslation())

    async def retrieve(self, request: Request) -> ASGIApp:
        id, query = request.path_params["id"], read_query(request)
        background = self._background.get(id)
        if query.get("stream") == "true":
            if background is None:
                await self._store.find(id)
                raise InvalidRequest("the response is complete; ask for it without `stream`", param="stream")
            begin = number(query, "starting_after", -1, 0, 2**31) + 1
            return FollowedResponse(background, begin, self._dialect.gateway.limits.keep_alive_seconds)
        return json_response(background.response if background is not None else (await self._kept(id)).response)

    async def delete(self, request: Request) -> Response:
        id = request.path_params["id"]
        if (background := self._background.get(id)) is not None:
            await background.cancel()
        await self._store.delete(id)
        return json_response({"id": id, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """End a response that is written in the background; one that has ended stays as it is."""
        id = request.path_params["id"]
        await request.body()  # It says nothing, but a client that sends one goes on with its connection.
        background = self._background.get(id)
        if background is not None:
            await background.cancel()
            return json_response(background.response)
        response = (await self._kept(id)).response
        if not response["background"]:
            raise InvalidRequest("only a response in the background can be cancelled", param="id")
        return json_response(response)

    async def input_items(self, request: Request) -> Response:
        id, query = request.path_params["id"], read_query(request)
        kept = await self._store.find(id)
        limit = number(query, "limit", _DEFAULT_PAGE, 1, _LARGEST_PAGE)
        return json_response(page(kept.input, limit, query.get("after"), descending=order_is_descending(query)))

    async def _earlier(self, asked: InputTokensRequest) -> list[dict[str, Any]]:
        """The conversation that the request goes on with."""
        if asked.previous_response_id is None:
            return []
        if asked.previous_response_id in self._background:
            raise InvalidRequest("the previous response is still being written", param="previous_response_id")
        try:
            return await self._store.conversation(asked.previous_response_id)
        except NotFound as error:
            raise NotFound(error.message, param="previous_response_id", code="previous_response_not_found") from None

    async def _in_background(
        self, background: BackgroundResponse, items: list[dict[str, Any]], *, stream: bool
    ) -> ASGIApp:
        response = background.response
        id = response["id"]
        await self._keep(response, items)
        queued = json_response(response)
        self._background[id] = background

        async def at_end() -> None:
            await self._keep(background.response, items)
            self._background.pop(id, None)

        background.start(at_end)
        if stream:
            return FollowedResponse(background, 0, self._dialect.gateway.limits.keep_alive_seconds)
        return queued

    async def _keep(self, response: dict[str, Any], items: list[dict[str, Any]]) -> None:
        try:
            await self._store.keep(KeptResponse(response, items))
        except (sqlite3.Error, OSError) as error:
            # The answer itself is whole, and the client shall have it.
            _log.error("cannot keep a response: %s", error)

    async def _kept(self, id: str) -> KeptResponse:
        kept = await self._store.find(id)
        if kept.response["status"] in FINAL:
            return kept
        error = {"message": "the server stopped before the response was complete"}
        return KeptResponse(ended(kept.response, "failed", error), kept.input)
