"""The transport to a worker, against a server that says exactly what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvloop

from llmserve.fleet.transport import WorkerTransport

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Kind: test\r\n\r\n"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Run a coroutine on each kind of loop the gateway may have."""

    def run(work: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(work)

    return run


@asynccontextmanager
async def client_of(path: Path, handle: Handler) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a server on `path` whose connections `handle` serves."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    transport = WorkerTransport(path)
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://worker", trust_env=False) as client:
            yield client
    finally:
        server.close()


def says(*pieces: bytes) -> Handler:
    """A server that reads a request's head and answers with `pieces`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return handle


def test_a_request_arrives_whole_and_is_answered(run: Callable[[Any], Any], tmp_path: Path) -> None:
    received: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(5))
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-Kind: test\r\n\r\nok")

    async def main() -> httpx2.Response:
        async with client_of(tmp_path / "s", handle) as client:
            return await client.post("/v1/x?y=1", content=b"hello", headers={"X-Request-Id": "an-id"})

    answer = run(main())
    assert (answer.status_code, answer.content, answer.headers["x-kind"]) == (201, b"ok", "test")
    head = received[0].lower()
    assert received[0].startswith(b"POST /v1/x?y=1 HTTP/1.1\r\n")
    assert received[0].endswith(b"\r\n\r\nhello")
    for line in (b"host: worker\r\n", b"content-length: 5\r\n", b"x-request-id: an-id\r\n", b"connection: close\r\n"):
        assert head.count(line) == 1


def test_pieces_come_as_they_arrive(run: Callable[[Any], Any], tmp_path: Path) -> None:
    async def main() -> list[bytes]:
        taken = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(CHUNKED + b"2\r\nab\r\n")
            await taken.wait()
            writer.write(b"1\r\nc\r\n1\r\nd\r\n0\r\n\r\n")

        pieces = []
        async with client_of(tmp_path / "s", handle) as client, client.stream("GET", "/") as answer:
            async for piece in answer.aiter_raw():
                pieces.append(piece)
                taken.set()
        return pieces

    pieces = run(main())
    assert pieces[0] == b"ab"
    assert b"".join(pieces) == b"abcd"


def test_a_large_body_is_not_read_faster_than_it_is_taken(run: Callable[[Any], Any], tmp_path: Path) -> None:
    size = 4 * 1024 * 1024

    async def main() -> tuple[int, int]:
        written = 0

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // 65536):
                writer.write(b"x" * 65536)
                await writer.drain()
                written += 65536

        async with client_of(tmp_path / "s", handle) as client, client.stream("GET", "/") as answer:
            pieces = answer.aiter_raw()
            received = len(await anext(pieces))
            for _ in range(200):
                await asyncio.sleep(0)
            written_early = written
            async for piece in pieces:
                received += len(piece)
        return received, written_early

    received, written_early = run(main())
    assert received == size
    assert written_early < size


@pytest.mark.parametrize(
    "pieces",
    [
        (b"",),
        (b"HTTP/1.1 200 OK\r\nContent-",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",),
        (CHUNKED + b"2\r\nab\r\n",),
        (CHUNKED + b"zz\r\n",),
        (b"\x00\xff this is not HTTP",),
    ],
    ids=["nothing", "half a head", "half a body", "no last chunk", "bad chunk", "no HTTP"],
)
def test_an_answer_that_breaks_off_is_an_error(
    run: Callable[[Any], Any], tmp_path: Path, pieces: tuple[bytes, ...]
) -> None:
    async def main() -> None:
        async with client_of(tmp_path / "s", says(*pieces)) as client:
            await client.get("/")

    with pytest.raises(httpx2.RemoteProtocolError):
        run(main())


def test_what_came_before_the_break_is_handed_out(run: Callable[[Any], Any], tmp_path: Path) -> None:
    async def main() -> bytes:
        async with (
            client_of(tmp_path / "s", says(CHUNKED + b"2\r\nab\r\n")) as client,
            client.stream("GET", "/") as answer,
        ):
            pieces = answer.aiter_raw()
            first = await anext(pieces)
            with pytest.raises(httpx2.RemoteProtocolError):
                await anext(pieces)
        return first

    assert run(main()) == b"ab"


@pytest.mark.parametrize("sent", [b"", CHUNKED], ids=["before the head", "in the body"])
def test_silence_is_a_time_out(run: Callable[[Any], Any], tmp_path: Path, sent: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await reader.read()  # the head
        await reader.read()  # until the client leaves

    async def main() -> None:
        async with client_of(tmp_path / "s", handle) as client:
            await client.get("/", timeout=httpx2.Timeout(5, read=0.05))

    with pytest.raises(httpx2.ReadTimeout):
        run(main())


def test_nobody_there_is_a_connect_error(run: Callable[[Any], Any], tmp_path: Path) -> None:
    async def main() -> None:
        transport = WorkerTransport(tmp_path / "nobody")
        async with httpx2.AsyncClient(transport=transport, base_url="http://worker", trust_env=False) as client:
            await client.get("/")

    with pytest.raises(httpx2.ConnectError):
        run(main())


@pytest.mark.parametrize("started", [False, True], ids=["before the head", "in the body"])
def test_leaving_closes_the_connection(run: Callable[[Any], Any], tmp_path: Path, started: bool) -> None:
    async def main() -> None:
        asked, left = asyncio.Event(), asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if started:
                writer.write(CHUNKED + b"2\r\nab\r\n")
            asked.set()
            try:
                await reader.read()
            finally:
                left.set()

        async def ask(client: httpx2.AsyncClient) -> None:
            async with client.stream("GET", "/") as answer:
                async for _ in answer.aiter_raw():
                    pass

        async with client_of(tmp_path / "s", handle) as client:
            asking = asyncio.create_task(ask(client))
            await asked.wait()
            asking.cancel()
            await asyncio.wait([asking])
            async with asyncio.timeout(10):
                await left.wait()

    run(main())
