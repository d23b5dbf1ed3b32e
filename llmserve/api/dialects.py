"""The routes of every dialect, and of what is kept for clients, and the shapes their errors have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from llmserve.api.anthropic import AnthropicRoutes, speaks_anthropic
from llmserve.api.batches import BatchRoutes
from llmserve.api.dialect import Dialect
from llmserve.api.envelope import REQUEST_ID
from llmserve.api.ollama import OllamaRoutes, greeting_route
from llmserve.api.open_webui import RouterRoutes
from llmserve.api.responses import ResponsesRoutes
from llmserve.api.unsupported import unsupported_routes
from llmserve.dialects.anthropic import errors as anthropic
from llmserve.dialects.ollama import errors as ollama
from llmserve.errors import LlmserveError
from llmserve.openai.json import dump_json

if TYPE_CHECKING:
    from llmserve.api.gateway import Gateway


class Dialects:
    """Every dialect of a gateway. `close` ends what they do in the background."""

    def __init__(self, gateway: Gateway) -> None:
        self._ollama_port = gateway.settings.ollama_port
        dialect = Dialect(gateway)
        self._anthropic = AnthropicRoutes(dialect)
        self._ollama = OllamaRoutes(dialect)
        self._responses = ResponsesRoutes(dialect)
        self._batches = BatchRoutes(dialect)
        self._router = RouterRoutes(dialect)

    def table(self) -> list[Route]:
        greeting = [] if self._ollama_port is None else [greeting_route(self._ollama_port)]
        return [
            *self._anthropic.table(),
            *self._ollama.table(),
            *self._responses.table(),
            *self._batches.table(),
            *self._router.table(),
            *unsupported_routes(),
            *greeting,
        ]

    async def start(self, app: ASGIApp) -> None:
        """Go on with what an earlier run has left; its requests go through `app`."""
        await self._batches.start(app)

    async def close(self) -> None:
        await self._batches.close()
        await self._responses.close()
        await self._router.close()


def error_body(scope: Scope, error: LlmserveError) -> bytes:
    """`error` in the dialect of the route that was asked for, whether there is one or not."""
    path: str = scope["path"]
    body = error.body()
    if path.startswith("/api/"):
        return ollama.error_body(body["error"])
    if path.startswith("/v1/messages") or (path.startswith("/v1/models") and speaks_anthropic(scope)):
        request_id = scope["state"][REQUEST_ID]
        return dump_json(anthropic.error_object(body["error"], request_id, error.status))
    return dump_json(body)
