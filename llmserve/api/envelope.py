"""The outermost layer: every request gets an id, an answer and a place in the metrics, whatever happens inside.

Layers further in raise errors of the tree; only this one turns them into responses. A fault of the program is a 500
that says nothing but the request's id, under which the log has the rest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve.api.body_writer import DIRECT_WRITER, DirectWriter
from llmserve.api.metrics import METHODS, Metrics
from llmserve.api.problems import Problems
from llmserve.api.replies import HeaderList, error_headers, internal_error, json_headers, request_id
from llmserve.errors import LlmserveError, MethodNotAllowed, NotFound

_log = logging.getLogger(__name__)

# `scope["state"]` keys of this layer: the request's id (str), and headers (`HeaderList`) for whatever is answered.
REQUEST_ID = "request_id"
REPLY_HEADERS = "reply_headers"

ErrorBody = Callable[[Scope, LlmserveError], bytes]


class Envelope:
    """ASGI middleware around `app`, whose `routes` give each endpoint the pattern it is counted under.

    `error_body` writes an error in the dialect of what was asked for.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, problems: Problems, routes: Iterable[Route], error_body: ErrorBody
    ) -> None:
        self._app = app
        self._error_body = error_body
        self._metrics = metrics
        self._problems = problems
        self._patterns: dict[object, str] = {route.endpoint: route.path for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, _Exchange(scope, receive, send, self._error_body))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        started_at = time.perf_counter()
        # With an `app` in the scope the router raises what it would otherwise answer in plain text.
        scope["app"] = self
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass  # Nobody is left to answer.
        except HTTPException as error:
            await exchange.fail(*_router_refusal(error))
        except Exception as error:
            await exchange.fail(as_answer(error, exchange.request_id))
        finally:
            # The router leaves the endpoint in the scope; a request refused before routing has none.
            route = self._patterns.get(scope.get("endpoint"), "none")
            self._metrics.request_done(route, scope["method"], exchange.status, time.perf_counter() - started_at)
            if exchange.failure is not None:
                self._problems.refused(_asked(scope, route, exchange.failure), exchange.failure)


def _asked(scope: Scope, route: str, failure: LlmserveError) -> str:
    """What to list a refused request under: nothing that lets somebody without the key fill the list."""
    method = scope["method"] if scope["method"] in METHODS else "other"
    if route != "none":
        return f"{method} {route.replace(':path', '')}"
    # The path that has no route says what the client does wrong.
    return f"{method} {scope['path'][:200]}" if failure.status == 404 else method


def as_answer(error: Exception, request_id: str) -> LlmserveError:
    """`error` as a client may see it: what is not of the tree, or a 500, is logged and becomes an internal error."""
    if isinstance(error, LlmserveError) and error.status != 500:
        return error
    _log.error("request %s failed", request_id, exc_info=error)
    return internal_error(request_id)


def _router_refusal(error: HTTPException) -> tuple[LlmserveError, HeaderList]:
    """The router's 404 or 405 in our words."""
    if error.status_code != 405:
        return NotFound("there is no such route"), []
    allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
    return MethodNotAllowed(f"allowed here: {allowed}"), [(b"allow", allowed.encode())]


class _Exchange:
    """One request's `receive` and `send`, and what is known about its answer so far."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, error_body: ErrorBody) -> None:
        self.request_id = request_id(scope["headers"])
        self.status: int | None = None
        self.failure: LlmserveError | None = None
        self._headers: HeaderList = [
            (b"x-request-id", self.request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
        self._body_pending = any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])
        self._scope = scope
        self._receive = receive
        self._send = send
        self._error_body = error_body
        state = scope.setdefault("state", {})
        state[REQUEST_ID] = self.request_id
        state[REPLY_HEADERS] = self._headers
        writer: DirectWriter | None = scope.get("extensions", {}).get(DIRECT_WRITER)
        if writer is not None:
            # Of a response's messages this layer changes the start alone.
            writer.stands_for = self.send

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._body_pending = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
            if self._body_pending:
                # The server will cut the connection instead of reading what nobody wants.
                message["headers"].append((b"connection", b"close"))
        await self._send(message)

    async def fail(self, error: LlmserveError, more_headers: HeaderList | None = None) -> None:
        """Answer `error`. An answer that has begun is left unfinished, which makes the server cut the connection."""
        if self.status is not None:
            return
        self.failure = error
        body = self._error_body(self._scope, error)
        headers = [*json_headers(body), *error_headers(error), *(more_headers or ())]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
