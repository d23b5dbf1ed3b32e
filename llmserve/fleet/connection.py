"""One HTTP/1.1 request to a worker over its Unix socket, and the response to it.

A generation is hundreds of tiny pieces of one body, and what a piece costs here is time the engine does not get. So
the bytes are parsed in C as they arrive, pieces that arrive together are handed out together, and whoever wants them at
once becomes the connection's receiver: then neither a task nor a timer runs for a piece. There is one connection for
each request: opening one on this machine costs little, and none can turn out to have been closed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import httptools
import httpx2

HIGH_WATER_BYTES = 64 * 1024


class Receiver(Protocol):
    """Where the pieces of a body go as they arrive; called by the event loop, so it neither waits nor raises."""

    def received(self, piece: bytes) -> None: ...

    def ended(self, failure: str | None) -> None:
        """No piece follows. `failure` says why the body is not whole, None if it is. Called once."""


async def connect(socket: Path, timeout_seconds: float | None) -> WorkerConnection:
    """A connection to the worker that listens on `socket`. Raises httpx2's `ConnectError` or `ConnectTimeout`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_seconds):
            _, connection = await loop.create_unix_connection(WorkerConnection, str(socket))
    except TimeoutError as error:
        raise httpx2.ConnectTimeout("the worker does not take the connection") from error
    except OSError as error:
        raise httpx2.ConnectError(f"cannot connect to the worker: {error.strerror}") from error
    return connection


class WorkerConnection(asyncio.Protocol):
    """One request and its response. The end of the body must be stated (chunked, or Content-Length).

    What arrives waits here, up to about `HIGH_WATER_BYTES`, until it is taken or there is a receiver. Closing the
    connection before the end of the body makes the worker cancel.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._receiver: Receiver | None = None
        self._pieces: list[bytes] = []
        self._paused = False
        self._failure: str | None = None
        self._arrived = asyncio.Event()

    # --- used by whoever asks ----------------------------------------------------------------------------------------

    def send(self, method: str, path: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send the one request of this connection. `headers` hold the length of `body` if there is one."""
        lines = [b"%s %s HTTP/1.1" % (method.encode("ascii"), path), *(b"%s: %s" % header for header in headers)]
        self._transport.write(b"\r\n".join([*lines, b"Connection: close", b"", body]))

    async def response(self, timeout_seconds: float | None) -> int:
        """The status of the response, once its headers are here. Raises as `more` does."""
        while self.status is None:
            await self.more(timeout_seconds)
        return self.status

    def header(self, name: bytes) -> bytes:
        """The value of the header `name` (in lower case), empty if the response has none."""
        return next((value for key, value in self.headers if key.lower() == name), b"")

    def take(self) -> bytes:
        """All that has arrived of the body since the last call; empty if nothing has."""
        piece = self._joined()
        self.resume()
        return piece

    async def more(self, timeout_seconds: float | None) -> None:
        """Return when something has arrived. Raises `RemoteProtocolError` when nothing will, or `ReadTimeout`."""
        if self._failure is not None:
            raise httpx2.RemoteProtocolError(self._failure)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._arrived.wait()
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the worker is silent") from error
        self._arrived.clear()

    def deliver(self, receiver: Receiver) -> None:
        """Hand what waits and all that follows to `receiver`, as it arrives, in place of `take` and `more`."""
        self._receiver = receiver
        self._hand_over()
        if self.complete or self._failure is not None:
            self._end(self._failure)

    def pause(self) -> None:
        """Read nothing for now, so that the worker waits."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close the connection, and hand out nothing any more. May be called twice."""
        self._receiver = None
        self._transport.abort()

    # --- called by the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._hand_over()
            self._end("the worker does not speak HTTP")
            self.abort()
            return
        self._hand_over()
        if self.complete:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._end("the worker closed the connection early")

    # --- called by the parser ----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._arrived.set()

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self.complete = True

    def _hand_over(self) -> None:
        if not self._pieces:
            return
        if self._receiver is not None:
            self._receiver.received(self._joined())
            return
        if sum(map(len, self._pieces)) > HIGH_WATER_BYTES:
            self.pause()
        self._arrived.set()

    def _joined(self) -> bytes:
        pieces = self._pieces
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return piece

    def _end(self, failure: str | None) -> None:
        """Nothing follows: tell whoever waits. A body that is complete stays so, and the first failure counts."""
        if not self.complete:
            self._failure = self._failure or failure
        self._arrived.set()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.ended(self._failure)
