"""The routes of Ollama's native API."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Scope

from llmserve.api.dialect import Dialect, RequestClock, json_response
from llmserve.api.line_stream import LineStream, Tell
from llmserve.api.tasks import until_hang_up
from llmserve.api.terms import read_demand
from llmserve.api.translated import Translated
from llmserve.dialects.ollama.answers import EmbeddingTranslation, TextTranslation
from llmserve.dialects.ollama.errors import error_body
from llmserve.dialects.ollama.models import SPOKEN_VERSION, description, model_entry, running_entry
from llmserve.dialects.ollama.progress import SUCCESS, progress_line
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
from llmserve.errors import InvalidRequest, ModelNotFound
from llmserve.fleet.demand import Demand
from llmserve.openai.adapters import refuse_adapter, with_each_adapter
from llmserve.openai.parse import Parsed

# What `expires_at` says of a model that stays: clients show a time, and the format has no word for "never".
_FOR_EVER = timedelta(days=365 * 100)

_Text = OllamaChatRequest | OllamaGenerateRequest


class OllamaRoutes:
    """The endpoints below `/api`, and `/` on the port that is Ollama's."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._gateway = dialect.gateway

    def table(self) -> list[Route]:
        return [
            Route("/api/chat", self.chat, methods=["POST"]),
            Route("/api/generate", self.generate, methods=["POST"]),
            Route("/api/embed", self.embed, methods=["POST"]),
            Route("/api/embeddings", self.embeddings, methods=["POST"]),
            Route("/api/tags", self.tags, methods=["GET"]),
            Route("/api/ps", self.ps, methods=["GET"]),
            Route("/api/version", self.version, methods=["GET"]),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/pull", self.pull, methods=["POST"]),
            Route("/api/delete", self.delete, methods=["DELETE"]),
            Route("/api/copy", self.copy, methods=["POST"]),
            Route("/api/create", self.create, methods=["POST"]),
            Route("/api/push", self.push, methods=["POST"]),
            Route("/api/blobs/{digest}", self.blob, methods=["POST"]),
        ]

    # --- what a worker answers ---------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> ASGIApp:
        return await self._text(request, await self._dialect.read(request, OllamaChatRequest), chat=True)

    async def generate(self, request: Request) -> ASGIApp:
        return await self._text(request, await self._dialect.read(request, OllamaGenerateRequest), chat=False)

    async def embed(self, request: Request) -> ASGIApp:
        return await self._vectors(request, await self._dialect.read(request, OllamaEmbedRequest), single=False)

    async def embeddings(self, request: Request) -> ASGIApp:
        return await self._vectors(request, await self._dialect.read(request, OllamaEmbeddingsRequest), single=True)

    async def _text(self, request: Request, parsed: Parsed[Any], *, chat: bool) -> ASGIApp:
        asked: _Text = parsed.request
        translation = TextTranslation(asked.model, RequestClock(), chat=chat)
        if asked.asks_nothing:
            return Response(translation.loaded(await self._load(request, asked)), media_type="application/json")
        call = await self._dialect.prepare(request, lambda: self._internal(asked), asked.keep_alive)
        return Translated(self._dialect.relay(call, parsed.ignored_fields), translation)

    def _internal(self, asked: _Text) -> Any:
        """The internal request, with what suits the model where this states nothing; reads the disk."""
        self._dialect.store.find(asked.model)
        stated = self._defaults(asked.model)
        return asked.internal(stated.pop("system", None), stated)

    def _defaults(self, model: str) -> dict[str, Any]:
        """What suits the model in a chat, by the names of the request fields; reads the disk."""
        defaults = asdict(self._dialect.store.defaults(model))
        return {name: value for name, value in defaults.items() if value is not None}

    async def _load(self, request: Request, asked: _Text) -> str:
        """Load the model, or unload it with a `keep_alive` of 0; which of the two it was."""
        if asked.keep_alive == 0:
            await self._gateway.fleet.stop(asked.model)
            return "unload"
        demand = read_demand(request.scope, None, asked.keep_alive)
        await until_hang_up(request.receive, self._loaded(asked.model, demand))
        return "load"

    async def _loaded(self, model: str, demand: Demand) -> None:
        lease = await self._gateway.fleet.lease(model, demand)
        lease.release()

    async def _vectors(self, request: Request, parsed: Parsed[Any], *, single: bool) -> ASGIApp:
        asked: OllamaEmbedRequest | OllamaEmbeddingsRequest = parsed.request
        translation = EmbeddingTranslation(asked.model, RequestClock(), single=single)
        call = await self._dialect.prepare(request, asked.internal, asked.keep_alive)
        return Translated(self._dialect.relay(call, parsed.ignored_fields), translation)

    # --- models ------------------------------------------------------------------------------------------------------

    async def tags(self, request: Request) -> Response:
        def entries() -> list[dict[str, Any]]:
            models = [(model, self._dialect.entries.info(model)) for model in self._dialect.store.list()]
            # Clients take the first one where nobody has chosen: one that can chat.
            models.sort(key=lambda listed: listed[1] is None or listed[1].kind != "generate")
            return [model_entry(named, info) for model, info in models for named in with_each_adapter(model)]

        return json_response({"models": await asyncio.to_thread(entries)})

    async def ps(self, request: Request) -> Response:
        now = RequestClock().now()
        ready = [status for status in self._gateway.fleet.status() if status.state == "ready"]

        def entries() -> list[dict[str, Any]]:
            installed = {model.name: model for model in self._dialect.store.list()}
            return [
                running_entry(
                    model,
                    self._dialect.entries.info(model),
                    status.plan,
                    now
                    + (_FOR_EVER if status.unload_in_seconds is None else timedelta(seconds=status.unload_in_seconds)),
                )
                for status in ready
                if (model := installed.get(status.name)) is not None and status.plan is not None
            ]

        return json_response({"models": await asyncio.to_thread(entries)})

    async def version(self, request: Request) -> Response:
        return json_response({"version": SPOKEN_VERSION})

    async def show(self, request: Request) -> Response:
        asked = (await self._dialect.read(request, OllamaShowRequest)).request
        store = self._dialect.store

        def describe() -> dict[str, Any]:
            model = store.find(asked.model)
            stated = self._defaults(asked.model)
            info = self._dialect.entries.info(model) or store.inspect(model.name)
            return description(model, info, stated.pop("system", None), stated)

        return json_response(await asyncio.to_thread(describe))

    async def pull(self, request: Request) -> ASGIApp:
        """Progress as lines; who hangs up leaves, and the last who does ends the pull."""
        asked = (await self._dialect.read(request, OllamaPullRequest)).request
        pulls = self._dialect.pulls

        async def lines(tell: Tell) -> None:
            last: dict[str, Any] | None = None

            async def progress(event: dict[str, Any]) -> None:
                nonlocal last
                line = progress_line(asked.model, event)
                if line != last:
                    await tell(line)
                last = line

            await pulls.follow(asked.model, progress)
            await tell(SUCCESS)

        return LineStream(lines, error_body, streamed=asked.stream)

    async def delete(self, request: Request) -> Response:
        asked = (await self._dialect.read(request, OllamaDeleteRequest)).request
        refuse_adapter(asked.model)
        await self._gateway.fleet.stop(asked.model)
        await asyncio.to_thread(self._dialect.store.remove, asked.model)
        return Response(status_code=200)

    async def copy(self, request: Request) -> Response:
        from llmserve.store.copies import copy

        asked = (await self._dialect.read(request, OllamaCopyRequest)).request
        await asyncio.to_thread(copy, self._dialect.store, asked.source, asked.destination)
        return Response(status_code=200)

    async def create(self, request: Request) -> ASGIApp:
        from llmserve.store.chat_templates import check_template
        from llmserve.store.copies import make, new_name
        from llmserve.store.defaults import ChatDefaults
        from llmserve.store.description import Description

        asked = (await self._dialect.read(request, OllamaCreateRequest)).request
        defaults = ChatDefaults(system=asked.system, **asked.parameters.internal())
        description = Description(asked.source, defaults, asked.template or None)

        store = self._dialect.store

        def check() -> None:
            if description.template is not None:
                check_template(description.template)
            store.find(description.base)
            new_name(store, asked.model, replaces=True)

        async def lines(tell: Tell) -> None:
            await asyncio.to_thread(check)
            # A model that was made like this makes way for the new one.
            with suppress(ModelNotFound):
                await self._gateway.fleet.stop(asked.model)
            await asyncio.to_thread(make, store, description, asked.model, replaces=True)
            await tell({"status": "using existing layers"})
            await tell(SUCCESS)

        return LineStream(lines, error_body, streamed=asked.stream)

    async def push(self, request: Request) -> Response:
        raise InvalidRequest("models are not pushed to a registry from here", code="not_supported")

    async def blob(self, request: Request) -> Response:
        raise InvalidRequest(
            "files are not uploaded here",
            code="not_supported",
            hint="`llmserve pull PATH` registers a file where it lies",
        )


class PortRoute(Route):
    """A route that is there for connections to one port only."""

    def __init__(self, path: str, endpoint: Any, port: int, methods: list[str]) -> None:
        super().__init__(path, endpoint, methods=methods)
        self._port = port

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        # The socket's own address, and nothing that a client says.
        if (scope.get("server") or (None, None))[1] != self._port:
            return Match.NONE, {}
        return super().matches(scope)


def greeting_route(port: int) -> Route:
    """`/` on Ollama's port: what its clients look for before anything else."""

    async def greeting(request: Request) -> Response:
        return PlainTextResponse("Ollama is running")

    return PortRoute("/", greeting, port, ["GET"])
