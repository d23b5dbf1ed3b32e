"""A worker that streams as fast as one Python process can: what the gateway's relay is measured against.

It speaks as much of the internal protocol as a gateway needs, over plain asyncio. A request's last message (or prompt)
is a JSON object: `events` to send, `interval` seconds between two of them (0: as fast as they go, one write each).
Every event carries its number and the monotonic time at which it was written.

    python benchmarks/stream_worker.py --socket PATH [arguments of the real worker, ignored]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import threading
import time

_EVENT = (
    '"choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}],'
    '"id":"chatcmpl-0123456789abcdef01234567","object":"chat.completion.chunk","created":1700000000,"model":"bench"}\n\n'
)
_LAST = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":1}}\n\ndata: [DONE]\n\n'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_WRITES_AHEAD = 64 * 1024


class Connection(asyncio.Protocol):
    """One request, then the end of the connection."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not separator or len(body) < (int(length[1]) if length else 0):
            return
        if head.startswith(b"GET /health"):
            self._answer(b'{"status":"ok"}')
        elif head.startswith(b"GET /stats"):
            self._answer(b'{"running":0,"waiting":0,"steps":0}')
        else:
            request = json.loads(body)
            text = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
            script = json.loads(text[0] if isinstance(text, list) else text)
            self._task = asyncio.create_task(self._stream(**script))

    def connection_lost(self, error: Exception | None) -> None:
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _answer(self, body: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        self._transport.close()

    async def _stream(self, events: int, interval: float = 0.0) -> None:
        self._transport.write(_HEAD)
        due = time.monotonic()
        for number in range(events):
            event = f'data: {{"n":{number},"t":{time.monotonic():.6f},{_EVENT}'.encode()
            self._transport.write(b"%x\r\n%s\r\n" % (len(event), event))
            due += interval
            await asyncio.sleep(max(0.0, due - time.monotonic()) if interval else 0)
            if not self._writable.is_set():
                await self._writable.wait()
        last = _LAST % events
        self._transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(last), last))
        self._transport.close()


async def serve(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Connection, path, backlog=1024)
    await server.serve_forever()


def _exit_at_end_of_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    arguments, _ = parser.parse_known_args()
    threading.Thread(target=_exit_at_end_of_stdin, daemon=True).start()
    uvloop.run(serve(arguments.socket))


if __name__ == "__main__":
    main()
