"""From a worker's connection to a client's, event by event, with nothing between but two calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

from llmserve.api.event_stream import EventStream
from llmserve.api.upstream import Nonsense, WholeEvents
from llmserve.fleet.connection import WorkerConnection


class Pump:
    """Writes what `connection` receives to `stream`, whole events at a time, and shows it to `look`.

    The event loop calls it with each buffer; no task wakes and no timer is set for one. A client that reads slowly
    makes the worker wait.
    """

    def __init__(
        self, connection: WorkerConnection, stream: EventStream, events: WholeEvents, look: Callable[[bytes], None]
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._events = events
        self._look = look
        self._heard = True
        self._done: asyncio.Future[None]

    async def run(self, silence_seconds: float) -> None:
        """Return at the end of the body; once only.

        Raises httpx2's `TransportError` when the connection breaks or the worker says nothing for `silence_seconds`
        (or up to twice as long), `Nonsense` for what is no event, and what a write to the client raises.
        """
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._stream.writer.on_resume = self._connection.resume
        timer = loop.call_later(silence_seconds, lambda: None)

        def listen() -> None:
            nonlocal timer
            if not (self._heard or self._stream.writer.paused):
                self._finish(httpx2.ReadTimeout("the worker is silent"))
            self._heard = False
            timer = loop.call_later(silence_seconds, listen)

        listen()
        try:
            self._connection.deliver(self)
            await self._done
        finally:
            timer.cancel()
            self._stream.writer.on_resume = None

    # --- called by the connection ------------------------------------------------------------------------------------

    def received(self, piece: bytes) -> None:
        self._heard = True
        try:
            if whole := self._events.feed(piece):
                self._look(whole)
                self._stream.write(whole)
                if self._stream.writer.paused:
                    self._connection.pause()
        except Exception as error:
            # Of no use to the event loop, which calls this; `run` raises it.
            self._connection.abort()
            self._finish(error)

    def ended(self, failure: str | None) -> None:
        if failure is not None:
            self._finish(httpx2.RemoteProtocolError(failure))
        elif self._events.in_event:
            self._finish(Nonsense())
        else:
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
