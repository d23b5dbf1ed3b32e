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
from llmserve.api.load_status import LoadStatus, read_form
from llmserve.api.pulls import Pulls, PullStream
from llmserve.api.relay import Relay
from llmserve.api.replies import ignored_headers
from llmserve.api.tasks import until_hang_up
from llmserve.api.upstream import Call
from llmserve.errors import InvalidRequest
from llmserve.openai.chat_input import ChatInput
from llmserve.openai.json import dump_json, parse_json
from llmserve.openai.parse import (
    parse_chat,
    parse_completion,
    parse_detokenize,
    parse_embedding,
    parse_rerank,
    parse_tokenize,
)
from llmserve.openai.requests import ModelRequest, SamplingRequest
from llmserve.types import ModelKind

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
        self._pulls = Pulls(gateway.store, gateway.settings)

    def answered_by_workers(self) -> list[Route]:
        return [
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            # One endpoint, counted under the path that stands last: llama.cpp and vLLM have both.
            Route("/rerank", self.rerank, methods=["POST"]),
            Route("/v1/rerank", self.rerank, methods=["POST"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
        ]

    def answered_here(self) -> list[Route]:
        return [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/admin/ps", self.admin_ps, methods=["GET"]),
            Route("/admin/load", self.admin_load, methods=["POST"]),
            Route("/admin/pull", self.admin_pull, methods=["POST"]),
            Route("/admin/stop", self.admin_stop, methods=["POST"]),
        ]

    # --- what a worker answers ---------------------------------------------------------------------------------------

    async def chat_completions(self, request: Request) -> ASGIApp:
        return await self._relayed(request, parse_chat, "/v1/chat/completions", "generate")

    async def completions(self, request: Request) -> ASGIApp:
        return await self._relayed(request, parse_completion, "/v1/completions", "generate")

    async def embeddings(self, request: Request) -> ASGIApp:
        return await self._relayed(request, parse_embedding, "/v1/embeddings", "embed")

    async def rerank(self, request: Request) -> ASGIApp:
        return await self._relayed(request, parse_rerank, "/v1/rerank", "embed")

    async def tokenize(self, request: Request) -> ASGIApp:
        return await self._relayed(request, parse_tokenize, "/tokenize", None)

    async def detokenize(self, request: Request) -> ASGIApp:
        return await self._relayed(request, parse_detokenize, "/detokenize", None)

    async def _relayed(
        self, request: Request, parse: Callable[..., Parsed[Any]], path: str, kind: ModelKind | None
    ) -> ASGIApp:
        """The response to a request for the worker's `path`, which a model of `kind` can answer (None: any, as far as
        it is no chat)."""
        self._gateway.check_open()
        raw = await request.body()
        strict = bool(self._gateway.settings.strict)

        def understand() -> tuple[Parsed[Any], bytes]:
            parsed = parse(raw, strict=strict)
            return parsed, self._canonical(parsed.request)

        parsed, body = understand() if len(raw) <= _INLINE_BODY_BYTES else await asyncio.to_thread(understand)
        call = Call(
            path=path,
            model=parsed.request.model,
            kind="generate" if isinstance(parsed.request, ChatInput) else kind,
            stream=isinstance(parsed.request, SamplingRequest) and parsed.request.stream,
            body=body,
            request_id=request.state.request_id,
        )
        form = read_form(request.scope)
        load_status = LoadStatus(self._gateway, call, form) if call.stream and form is not None else None
        return Relay(self._gateway, call, ignored_headers(parsed.ignored_fields), load_status)

    def _canonical(self, request: ModelRequest) -> bytes:
        """The body for the worker: with a limit where a request for text states none."""
        if isinstance(request, SamplingRequest):
            return request.canonical(max_tokens=self._gateway.max_output_tokens)
        return request.canonical()

    # --- models ------------------------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        return _json(
            {"object": "list", "data": await asyncio.to_thread(self._entries.all, self._gateway.fleet.status())}
        )

    async def model(self, request: Request) -> Response:
        statuses = self._gateway.fleet.status()
        return _json(await asyncio.to_thread(self._entries.one, request.path_params["model"], statuses))

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
        self._gateway.metrics.workers_counted(await self._gateway.fleet.counters())
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

    async def admin_pull(self, request: Request) -> ASGIApp:
        """Events as `llmserve pull --json` prints them; who hangs up leaves, and the last who does ends the pull."""
        self._gateway.check_open()
        model = await _named_model(request)
        return PullStream(self._pulls, model, self._gateway.limits.keep_alive_seconds)

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
