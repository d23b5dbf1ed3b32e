"""A server-sent event stream to one client: its start, its events, and a comment whenever it is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from starlette.types import Scope, Send

from llmserve.api.body_writer import writer_for
from llmserve.api.replies import HeaderList
from llmserve.openai import sse

_HEADERS: HeaderList = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


class EventStream:
    """Write whole events only: a comment may be sent between any two writes.

    Nothing is sent before `start`, and until then `headers` may change. As a context manager it ends its own timer, not
    the stream.
    """

    def __init__(
        self,
        scope: Scope,
        send: Send,
        headers: HeaderList,
        keep_alive_seconds: float,
        waits_for: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`waits_for` says, as long as nothing was written, what the stream waits for; the comments repeat it."""
        self.writer = writer_for(scope, send)
        self._headers = headers
        self._send = send
        self._keep_alive_seconds = keep_alive_seconds
        self._waits_for = waits_for
        self._silent = True
        self._written = False
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_comments()

    @property
    def started(self) -> bool:
        return self._timer is not None

    async def start(self) -> None:
        """Send status 200 and the headers; nothing if that was done."""
        if self._timer is None:
            self._keep_alive_later()
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *self._headers]})

    def write(self, whole_events: bytes) -> None:
        """Raises what `BodyWriter.write` does."""
        self._silent = False
        self._written = True
        self.writer.write(whole_events)

    def remark(self, comments: bytes) -> None:
        """As `write`, of comments alone: they are none of what the stream is for."""
        self._silent = False
        self.writer.write(comments)

    async def end(self, last_event: bytes = b"") -> None:
        """Finish the response. Nothing may be written after it."""
        self._stop_comments()
        await self.writer.flush()
        await self._send({"type": "http.response.body", "body": last_event})

    def _keep_alive_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._keep_alive_seconds, self._keep_alive)

    def _keep_alive(self) -> None:
        if self._silent and not self.writer.paused:
            reason = None if self._written else self._waits_for()
            self.writer.write(sse.KEEP_ALIVE if reason is None else sse.comment(reason))
        self._silent = True
        self._keep_alive_later()

    def _stop_comments(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
