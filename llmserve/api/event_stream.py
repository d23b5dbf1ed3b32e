"""A server-sent event stream to one client: its start, its events, and a comment whenever it is silent."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Send

from llmserve.api.replies import HeaderList
from llmserve.api.tasks import cancel
from llmserve.openai import sse

_HEADERS: HeaderList = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


class EventStream:
    """Write whole events only: a comment may be sent between any two writes.

    Nothing is sent before `start`. As a context manager it ends its own task, not the stream.
    """

    def __init__(self, send: Send, headers: HeaderList, keep_alive_seconds: float) -> None:
        self._send = send
        self._headers = [*_HEADERS, *headers]
        self._keep_alive_seconds = keep_alive_seconds
        self._silent = True
        self._keeping_alive: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop_comments()

    @property
    def started(self) -> bool:
        return self._keeping_alive is not None

    async def start(self) -> None:
        """Send status 200 and the headers; nothing if that was done."""
        if self._keeping_alive is None:
            self._keeping_alive = asyncio.create_task(self._keep_alive())
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})

    async def write(self, whole_events: bytes) -> None:
        self._silent = False
        await self._send({"type": "http.response.body", "body": whole_events, "more_body": True})

    async def end(self, last_event: bytes = b"") -> None:
        """Finish the response. Nothing may be written after it."""
        await self._stop_comments()
        await self._send({"type": "http.response.body", "body": last_event})

    async def _stop_comments(self) -> None:
        if self._keeping_alive is not None:
            await cancel(self._keeping_alive)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._keep_alive_seconds)
            if self._silent:
                await self._send({"type": "http.response.body", "body": sse.KEEP_ALIVE, "more_body": True})
            self._silent = True
