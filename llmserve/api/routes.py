"""The routes. Each endpoint reads one request, asks the gateway, and returns one response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from llmserve import __version__
from llmserve.api.entries import ModelEntries
from llmserve.api.gateway import Gateway
from llmserve.api.relay import Relay
from llmserve.api.replies import HeaderList
from llmserve.api.tasks import until_hang_up
from llmserve.api.upstream import Call
from llmserve.errors import InvalidRequest
from llmserve.openai.json import dump_json, parse_json
from llmserve.openai.parse import parse_chat, parse_completion

if TYPE_CHECKING:
    from llmserve.openai.parse import Parsed

SERVICE = "llmserve"

# Parsing takes about 10 ms per MB: a body larger than this goes to a thread, so that no other stream waits for it.
_INLINE_BODY_BYTES = 64 * 1024


class Routes:
    """The endpoints of `gateway`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._entries = ModelEntries(gateway.store)

    def table(self) -> list[Route]:
        return [
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/admin/ps", self.admin_ps, methods=["GET"]),
            Route("/admin/load", self.admin_load, methods=["POST"]),
            Route("/admin/stop", self.admin_stop, methods=["POST"]),
        ]

    # --- generation --------------------------------------------------------------------------------------------------

    async def chat_completions(self, request: Request) -> ASGIApp:
        return await self._generation(request, parse_chat)

    async def completions(self, request: Request) -> ASGIApp:
        return await self._generation(request, parse_completion)

    async def _generation(self, request: Request, parse: Callable[..., Parsed[Any]]) -> ASGIApp:
        self._gateway.check_open()
        raw = await request.body()
        strict = bool(self._gateway.settings.strict)
        cap = self._gateway.max_output_tokens

        def understand() -> tuple[Parsed[Any], bytes]:
            parsed = parse(raw, strict=strict)
            return parsed, parsed.request.canonical(max_tokens=cap)

        parsed, body = understand() if len(raw) <= _INLINE_BODY_BYTES else await asyncio.to_thread(understand)
        call = Call(
            path=request.scope["path"],
            model=parsed.request.model,
            stream=bool(parsed.request.stream),
            body=body,
            request_id=request.state.request_id,
        )
        headers: HeaderList = []
        if parsed.ignored_fields:
            headers.append((b"x-llmserve-ignored-fields", ", ".join(parsed.ignored_fields).encode("ascii")))
        return Relay(self._gateway, call, headers)

    # --- models ------------------------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        return _json({"object": "list", "data": await asyncio.to_thread(self._entries.all)})

    async def model(self, request: Request) -> Response:
        return _json(await asyncio.to_thread(self._entries.one, request.path_params["model"]))

    # --- state -------------------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """Whether this process answers, models or not; 503 once it is leaving."""
        draining = self._gateway.draining
        status = "stopping" if draining else "ok"
        return _json({"status": status, "service": SERVICE, "version": __version__}, 503 if draining else 200)

    async def ready(self, request: Request) -> Response:
        """200 when every model named at the start is loaded."""
        pending = self._gateway.pending()
        if self._gateway.draining:
            return _json({"status": "stopping"}, 503)
        if pending:
            return _json({"status": "loading", "pending": pending}, 503)
        return _json({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        content_type, body = self._gateway.metrics.exposition()
        return Response(body, headers={"Content-Type": content_type})

    # --- administration ----------------------------------------------------------------------------------------------

    async def admin_ps(self, request: Request) -> Response:
        return _json({"models": [asdict(status) for status in self._gateway.fleet.status()]})

    async def admin_load(self, request: Request) -> Response:
        """Answers when the model is ready; a client that hangs up stops waiting, not the load."""
        self._gateway.check_open()
        model = await _named_model(request)
        await until_hang_up(request.receive, self._loaded(model))
        return _json({"model": model, "status": "ready"})

    async def _loaded(self, model: str) -> None:
        lease = await self._gateway.fleet.lease(model)
        lease.release()

    async def admin_stop(self, request: Request) -> Response:
        model = await _named_model(request)
        return _json({"model": model, "stopped": await self._gateway.fleet.stop(model)})


async def _named_model(request: Request) -> str:
    """The model that a body `{"model": NAME}` names. Raises `InvalidRequest`."""
    body = parse_json(await request.body())
    if not isinstance(body, dict) or body.keys() != {"model"} or not isinstance(body["model"], str):
        raise InvalidRequest("the body must be an object with the string `model` and nothing else", param="model")
    return body["model"]


def _json(value: Any, status: int = 200) -> Response:
    return Response(dump_json(value), status, media_type="application/json")
