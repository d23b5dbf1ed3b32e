"""A worker's HTTP as a transport of httpx2: for health, statistics and whatever else is not a stream of tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2

from llmserve.fleet.connection import WorkerConnection, connect


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
        connection = await connect(self._socket, timeouts.get("connect"))
        headers = [header for header in request.headers.raw if header[0].lower() != b"connection"]
        try:
            connection.send(request.method, request.url.raw_path, headers, body)
            status = await connection.response(timeouts.get("read"))
        except BaseException:
            connection.abort()
            raise
        stream = _Body(connection, timeouts.get("read"))
        return httpx2.Response(status, headers=connection.headers, stream=stream)


class _Body(httpx2.AsyncByteStream):
    """The pieces of one response's body. Closing it before its end closes the connection, which cancels the work."""

    def __init__(self, connection: WorkerConnection, timeout_seconds: float | None) -> None:
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
