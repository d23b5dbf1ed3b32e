"""HTTP/1.1 to a worker over its Unix socket, as a transport of httpx2.

A generation is hundreds of tiny pieces of one body, and what a piece costs here is time the engine does not get: the
general transport takes about five times as long for each. So the bytes are parsed in C as they arrive, pieces that
arrive together are handed out together, and there is one connection for each request: opening one on this machine
costs little, and none can turn out to have been closed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httptools
import httpx2

_HIGH_WATER_BYTES = 64 * 1024


class WorkerTransport(httpx2.AsyncBaseTransport):
    """Connects to `socket` for every request. Ends of the body must be stated (chunked, or Content-Length).

    Raises httpx2's `ConnectError`, `ConnectTimeout`, `ReadTimeout` and `RemoteProtocolError`; the time-outs are those
    of the request, and `read` is the longest silence.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        timeouts = request.extensions.get("timeout", {})
        body = await request.aread()
        connection = await self._connect(timeouts.get("connect"))
        try:
            connection.send(_head(request), body)
            while connection.status is None:
                await connection.more(timeouts.get("read"))
        except BaseException:
            connection.abort()
            raise
        stream = _Body(connection, timeouts.get("read"))
        return httpx2.Response(connection.status, headers=connection.headers, stream=stream)

    async def _connect(self, timeout_seconds: float | None) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_seconds):
                _, connection = await loop.create_unix_connection(_Connection, str(self._socket))
        except TimeoutError as error:
            raise httpx2.ConnectTimeout("the worker does not take the connection") from error
        except OSError as error:
            raise httpx2.ConnectError(f"cannot connect to the worker: {error.strerror}") from error
        return connection


def _head(request: httpx2.Request) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw if header[0].lower() != b"connection"]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


class _Body(httpx2.AsyncByteStream):
    """The pieces of one response's body. Closing it before its end closes the connection, which cancels the work."""

    def __init__(self, connection: _Connection, timeout_seconds: float | None) -> None:
        self._connection = connection
        self._timeout_seconds = timeout_seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        connection = self._connection
        while True:
            if piece := connection.take():
                yield piece
            elif connection.complete:
                return
            else:
                await connection.more(self._timeout_seconds)

    async def aclose(self) -> None:
        self._connection.abort()


class _Connection(asyncio.Protocol):
    """One request and its response. What arrives waits here, up to about `_HIGH_WATER_BYTES`, until it is taken."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._paused = False
        self._failure: str | None = None
        self._arrived = asyncio.Event()

    # --- used by the transport and the body --------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes) -> None:
        self._transport.write(head + body)

    def take(self) -> bytes:
        """All that has arrived of the body since the last call; empty if nothing has."""
        pieces = self._pieces
        if not pieces:
            return b""
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._waiting_bytes = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
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

    def abort(self) -> None:
        self._transport.abort()

    # --- called by the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("the worker does not speak HTTP")
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.complete:
            self._fail("the worker closed the connection early")

    # --- called by the parser ----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._arrived.set()

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._waiting_bytes += len(piece)
        if self._waiting_bytes > _HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._arrived.set()

    def on_message_complete(self) -> None:
        self.complete = True
        self._arrived.set()

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._arrived.set()
