"""What Open WebUI asks beyond OpenAI's API: llama.cpp's routes about models, and which calls can wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llmserve.api.dialect import Dialect, json_response
from llmserve.api.query import named_model
from llmserve.errors import LlmserveError
from llmserve.openai.adapters import refuse_adapter
from llmserve.openai.requests import ModelRequest

_log = logging.getLogger(__name__)

_TASK_HEADER = b"x-task"
_PRIORITY_HEADER = b"x-llmserve-priority"
# What it writes about a chat on its own, while nobody waits. For a search query the chat does wait.
_BACKGROUND_TASKS = frozenset(
    {b"title_generation", b"tags_generation", b"follow_up_generation", b"emoji_generation", b"memory_review"}
)


class BackgroundTasks:
    """ASGI middleware: a request whose `X-Task` names work that nobody waits for gets the priority `background`.

    Open WebUI fills the header in where a connection has the custom header `X-Task: {{TASK}}`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if headers.get(_TASK_HEADER, b"").strip() in _BACKGROUND_TASKS and _PRIORITY_HEADER not in headers:
            scope["headers"] = [*scope["headers"], (_PRIORITY_HEADER, b"background")]
        await self._app(scope, receive, send)


class RouterRoutes:
    """The endpoints below `/models`, those of llama.cpp's router. `close` ends what they began."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._fleet = dialect.gateway.fleet
        self._begun: set[asyncio.Task[None]] = set()

    def table(self) -> list[Route]:
        return [
            Route("/models", self.models, methods=["GET"]),
            Route("/models", self.download, methods=["POST"]),
            Route("/models", self.remove, methods=["DELETE"]),
            Route("/models/load", self.load, methods=["POST"]),
            Route("/models/unload", self.unload, methods=["POST"]),
        ]

    async def close(self) -> None:
        for task in self._begun:
            task.cancel()
        if self._begun:
            await asyncio.wait(self._begun)

    async def models(self, request: Request) -> Response:
        statuses = self._fleet.status()
        entries = await asyncio.to_thread(self._dialect.entries.all, statuses)
        return json_response({"object": "list", "data": entries})

    async def load(self, request: Request) -> Response:
        """Begin to load a model; its status tells how that goes."""
        model = await self._installed(request)
        self._begin(f"loading {model}", self._load(model))
        return json_response({"success": True})

    async def unload(self, request: Request) -> Response:
        await self._fleet.stop(await self._installed(request))
        return json_response({"success": True})

    async def download(self, request: Request) -> Response:
        """Begin to pull a model; it is in the list when it is here."""
        from llmserve.store.options import PullOptions

        model = (await self._dialect.read(request, ModelRequest)).request.model
        await asyncio.to_thread(self._dialect.store.wanted, model, PullOptions())
        self._begin(f"pulling {model}", self._pull(model))
        return json_response({"success": True})

    async def remove(self, request: Request) -> Response:
        model = named_model(request)
        refuse_adapter(model)
        await self._fleet.stop(model)
        await asyncio.to_thread(self._dialect.store.remove, model)
        return json_response({"success": True})

    async def _installed(self, request: Request) -> str:
        asked = (await self._dialect.read(request, ModelRequest)).request
        return (await asyncio.to_thread(self._dialect.store.find, asked.model)).name

    async def _load(self, model: str) -> None:
        lease = await self._fleet.lease(model)
        lease.release()

    async def _pull(self, model: str) -> None:
        async def tell(event: dict[str, Any]) -> None:
            pass

        await self._dialect.pulls.follow(model, tell)

    def _begin(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        async def reported() -> None:
            try:
                await work
            except LlmserveError as error:
                _log.error("%s failed: %s", what, error.message)
            except Exception:
                _log.exception("%s failed", what)

        task = asyncio.create_task(reported())
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
