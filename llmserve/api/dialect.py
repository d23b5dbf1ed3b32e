"""What the routes of all dialects share: reading a request, relaying it, telling its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from llmserve.api.entries import ModelEntries
from llmserve.api.gateway import Gateway
from llmserve.api.pulls import Pulls
from llmserve.api.relay import Relay
from llmserve.api.replies import ignored_headers
from llmserve.api.upstream import Call
from llmserve.openai.embeddings import EmbeddingRequest
from llmserve.openai.json import dump_json
from llmserve.openai.parse import Parsed, parse_request
from llmserve.openai.requests import ChatRequest, ModelRequest, SamplingRequest
from llmserve.openai.schema import Schema
from llmserve.openai.tokens import TokenizeChatRequest

if TYPE_CHECKING:
    from llmserve.types import ModelKind

S = TypeVar("S", bound=Schema)

# As in `routes.py`: a larger body goes to a thread.
_INLINE_BODY_BYTES = 64 * 1024


class RequestClock:
    """The time for one request."""

    def __init__(self) -> None:
        self._started_at = time.perf_counter_ns()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed_nanoseconds(self) -> int:
        return time.perf_counter_ns() - self._started_at


class Dialect:
    """The gateway as the routes of the dialects use it; one for all of them."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.store = gateway.store
        self.entries = ModelEntries(gateway.store)
        self.pulls = Pulls(gateway.store, gateway.settings)

    async def read(self, request: Request, kind: type[S]) -> Parsed[S]:
        """The body of `request`. Raises `InvalidRequest`, and `Unavailable` once the gateway is leaving."""
        self.gateway.check_open()
        raw = await request.body()
        strict = bool(self.gateway.settings.strict)

        def understand() -> Parsed[S]:
            return parse_request(kind, raw, strict=strict)

        return understand() if len(raw) <= _INLINE_BODY_BYTES else await asyncio.to_thread(understand)

    async def prepare(
        self, request: Request, translate: Callable[[], ModelRequest], keep_alive_seconds: float | None = None
    ) -> Call:
        """What a worker is asked for the request that `translate`, called in a thread, makes of this one.

        `keep_alive_seconds` is how long the model stays loaded afterwards, where the request says so.
        """
        request_id = request.state.request_id
        return await asyncio.to_thread(lambda: self._call(translate(), request_id, keep_alive_seconds))

    def _call(self, internal: ModelRequest, request_id: str, keep_alive_seconds: float | None) -> Call:
        """With a limit where a request for text states none."""
        path, kind = _worker_path(internal)
        stream = False
        if isinstance(internal, SamplingRequest):
            stream = internal.stream
            body = internal.canonical(max_tokens=self.gateway.max_output_tokens)
        else:
            body = internal.canonical()
        return Call(
            path=path,
            model=internal.model,
            kind=kind,
            stream=stream,
            body=body,
            request_id=request_id,
            keep_alive_seconds=keep_alive_seconds,
        )

    def relay(self, call: Call, ignored_fields: tuple[str, ...] = ()) -> Relay:
        """The response to `call`, in OpenAI's dialect."""
        return Relay(self.gateway, call, ignored_headers(ignored_fields))


def _worker_path(request: ModelRequest) -> tuple[str, ModelKind]:
    if isinstance(request, EmbeddingRequest):
        return "/v1/embeddings", "embed"
    if isinstance(request, TokenizeChatRequest):
        return "/tokenize", "generate"
    return ("/v1/chat/completions" if isinstance(request, ChatRequest) else "/v1/completions"), "generate"


def json_response(value: Any, status: int = 200) -> Response:
    return Response(dump_json(value), status, media_type="application/json")
