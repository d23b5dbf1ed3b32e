"""Requests that this program asks itself: through the routes, as a client's, without a connection."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Scope

from llmserve.batches.answers import Reply


async def ask(app: ASGIApp, path: str, body: bytes, client: str) -> Reply:
    """What `app` answers to a POST of `body`, JSON, to `path`, in the background. `client` takes turns with others.

    The answer is held in memory as a whole. Cancelling it is what a client's hang-up is.
    """
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("ascii"),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-llmserve-priority", b"background"),
        ],
        "client": (client, 0),
        "server": None,
        "state": {},
    }
    exchange = _Exchange(body)
    await app(scope, exchange.receive, exchange.send)
    return exchange.reply()


class _Exchange:
    """A client that sends one body, hears everything, and never hangs up."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._status = 500
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []

    async def receive(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = dict(message["headers"])
        else:
            self._pieces.append(message.get("body", b""))

    def reply(self) -> Reply:
        retry_after = self._headers.get(b"retry-after")
        return Reply(
            status=self._status,
            request_id=self._headers.get(b"x-request-id", b"").decode("ascii"),
            body=b"".join(self._pieces),
            retry_after=None if retry_after is None else float(retry_after),
        )
