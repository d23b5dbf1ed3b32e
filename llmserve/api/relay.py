"""The response that carries one generation from a worker to the client, and everything it borrowed on the way.

Lease and upstream live exactly as long as `Relay.__call__`: whatever ends it (the answer's end, an error, a client
that hangs up, the server stopping) closes the upstream, which makes the worker cancel, and gives the lease back.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

import httpx2
from starlette.types import Receive, Scope, Send

from llmserve.api.envelope import as_answer
from llmserve.api.event_stream import EventStream
from llmserve.api.gateway import Gateway
from llmserve.api.replies import HeaderList, json_headers
from llmserve.api.tasks import cancel, until_hang_up
from llmserve.api.upstream import Call, WorkerRefusal, events, open_upstream, read_answer, refusal, reported_tokens
from llmserve.errors import WorkerDied
from llmserve.openai import sse

if TYPE_CHECKING:
    from llmserve.fleet.lease import Lease

_ERROR_EVENT = re.compile(rb'data: ?\{"error"')
_CONTENT = re.compile(rb'"(?:content|reasoning_content|text)": ?"[^"]')
# The last events a worker sends hold the usage and the end mark.
_TAIL_CHUNKS = 4
_TAIL_BYTES = 4096


class Relay:
    """An ASGI response: runs `call`. `headers` join those of the answer."""

    def __init__(self, gateway: Gateway, call: Call, headers: HeaderList) -> None:
        self._fleet = gateway.fleet
        self._limits = gateway.limits
        self._metrics = gateway.metrics
        self._call = call
        self._headers = headers
        self._started_at = time.perf_counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._metrics.in_flight.track_inprogress():
            await until_hang_up(receive, self._stream(send) if self._call.stream else self._answer(send))

    # --- not streamed ------------------------------------------------------------------------------------------------

    async def _answer(self, send: Send) -> None:
        try:
            async with AsyncExitStack() as owned:
                lease, upstream = await self._open(owned)
                body = await read_answer(upstream, lease, self._limits.answer_bytes)
                self._count_tokens(lease, body)
            # The lease is back already: a slow reader holds no model.
            await self._reply(send, 200, body)
        except WorkerRefusal as error:
            await self._reply(send, error.status, error.body)

    async def _reply(self, send: Send, status: int, body: bytes) -> None:
        headers = [*json_headers(body), *self._headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    # --- streamed ----------------------------------------------------------------------------------------------------

    async def _stream(self, send: Send) -> None:
        """Until the stream has started a failure is a real status; from then on it is an event."""
        async with EventStream(send, self._headers, self._limits.keep_alive_seconds) as stream:
            try:
                async with AsyncExitStack() as owned:
                    await self._relay(stream, owned)
                await stream.end()
            except WorkerRefusal as error:
                if stream.started:
                    await stream.end(b"data: " + error.body + b"\n\n")
                else:
                    await self._reply(send, error.status, error.body)
            except Exception as error:
                if not stream.started:
                    raise
                await stream.end(sse.error_event(as_answer(error, self._call.request_id)))

    async def _relay(self, stream: EventStream, owned: AsyncExitStack) -> None:
        opening = asyncio.create_task(self._open_stream(owned))
        try:
            await asyncio.wait({opening}, timeout=self._limits.grace_seconds)
            if not opening.done():
                await stream.start()
            lease, source, chunk = await opening
        finally:
            await cancel(opening)
        await stream.start()
        tail: deque[bytes] = deque(maxlen=_TAIL_CHUNKS)
        content_seen = False
        while chunk:
            if not content_seen and _CONTENT.search(chunk):
                content_seen = True
                self._metrics.first_content(lease.model.name, time.perf_counter() - self._started_at)
            tail.append(chunk)
            await stream.write(chunk)
            chunk = await anext(source, b"")
        ending = b"".join(tail)
        if not ending.endswith(sse.DONE) and not _ERROR_EVENT.search(ending):
            raise WorkerDied("the worker ended the answer too early")
        self._count_tokens(lease, ending)

    async def _open_stream(self, owned: AsyncExitStack) -> tuple[Lease, AsyncGenerator[bytes], bytes]:
        """Lease, source and the first events; what fails until they are here can still be a real status."""
        lease, upstream = await self._open(owned)
        source = await owned.enter_async_context(aclosing(events(upstream, lease, self._limits.event_bytes)))
        return lease, source, await anext(source, b"")

    # --- both --------------------------------------------------------------------------------------------------------

    async def _open(self, owned: AsyncExitStack) -> tuple[Lease, httpx2.Response]:
        """A lease, and the worker's answer with status 200; `owned` gives both back. Raises `WorkerRefusal`."""
        lease = await self._fleet.lease(self._call.model, self._call.kind)
        owned.callback(lease.release)
        upstream = await open_upstream(lease, self._call, self._limits)
        owned.push_async_callback(upstream.aclose)
        if upstream.status_code != 200:
            raise await refusal(upstream, lease, self._limits.event_bytes)
        return lease, upstream

    def _count_tokens(self, lease: Lease, tail: bytes) -> None:
        if reported := reported_tokens(tail[-_TAIL_BYTES:]):
            self._metrics.tokens(lease.model.name, *reported)
