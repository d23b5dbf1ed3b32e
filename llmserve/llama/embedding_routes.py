"""The worker's routes for embeddings, ranking and tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llmserve.errors import LlmserveError, Unavailable, WrongModelKind
from llmserve.llama.embedding_service import EmbeddingService
from llmserve.llama.loader import Loader
from llmserve.llama.tokens import TokenService
from llmserve.openai.json import dump_json
from llmserve.openai.parse import parse_detokenize, parse_embedding, parse_rerank, parse_tokenize


def embedding_routes(loader: Loader) -> list[Route]:
    """Routes over the model that `loader` is bringing up."""

    async def embeddings(request: Request) -> Response:
        parsed = (await asyncio.to_thread(parse_embedding, await request.body())).request
        return _Computed(_service(loader).embed(parsed))

    async def rerank(request: Request) -> Response:
        parsed = (await asyncio.to_thread(parse_rerank, await request.body())).request
        return _Computed(_service(loader).rerank(parsed))

    async def tokenize(request: Request) -> Response:
        service, body = _tokens(loader), await request.body()
        return _json(await asyncio.to_thread(lambda: service.tokenize(parse_tokenize(body).request)))

    async def detokenize(request: Request) -> Response:
        service, body = _tokens(loader), await request.body()
        return _json(await asyncio.to_thread(lambda: service.detokenize(parse_detokenize(body).request)))

    return [
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/v1/rerank", rerank, methods=["POST"]),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
    ]


def _service(loader: Loader) -> EmbeddingService:
    if loader.service is None:
        raise Unavailable("the model is loading", retry_after=1)
    if not isinstance(loader.service, EmbeddingService):
        raise WrongModelKind.of(loader.service.model.name, "generate")
    return loader.service


def _tokens(loader: Loader) -> TokenService:
    if loader.tokens is None:
        raise Unavailable("the model is loading", retry_after=1)
    return loader.tokens


def _json(value: dict[str, Any]) -> Response:
    return Response(dump_json(value), media_type="application/json")


class _Computed(Response):
    """The JSON that `work` gives, or its error; the work is cancelled at once when the client hangs up."""

    def __init__(self, work: Coroutine[Any, Any, bytes]) -> None:
        super().__init__()
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        working = asyncio.ensure_future(self._answer())
        hang_up = asyncio.ensure_future(_until_disconnect(receive))
        try:
            await asyncio.wait({working, hang_up}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working.result()(scope, receive, send)
        finally:
            for task in (working, hang_up):
                task.cancel()
            await asyncio.gather(working, hang_up, return_exceptions=True)

    async def _answer(self) -> Response:
        try:
            return Response(await self._work, media_type="application/json")
        except LlmserveError as error:
            headers = {"retry-after": str(max(1, round(error.retry_after)))} if error.retry_after else None
            return Response(dump_json(error.body()), error.status, headers, "application/json")


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
