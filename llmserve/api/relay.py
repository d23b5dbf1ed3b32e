"""The response that carries one generation from a worker to the client, and everything it borrowed on the way.

Lease and connection live exactly as long as `Relay.__call__`: whatever ends it (the answer's end, an error, a client
that hangs up, the server stopping) closes the connection, which makes the worker cancel, and gives the lease back.

A worker that dies, or talks nonsense, before anything of its answer was sent is asked for nothing more: the request
goes to its successor, once, and the client does not learn of it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import httpx2
from starlette.types import Receive, Scope, Send

from llmserve.api.envelope import as_answer
from llmserve.api.event_stream import EventStream
from llmserve.api.gateway import Gateway
from llmserve.api.pump import Pump
from llmserve.api.replies import HeaderList, header_value, json_headers
from llmserve.api.tasks import cancel, until_hang_up
from llmserve.api.terms import read_demand
from llmserve.api.upstream import (
    Call,
    Nonsense,
    WorkerRefusal,
    ended_early,
    first_events,
    open_upstream,
    read_answer,
    refusal,
    reported_tokens,
    translated,
)
from llmserve.errors import WorkerDied
from llmserve.fleet.demand import Demand
from llmserve.openai import sse

if TYPE_CHECKING:
    from llmserve.api.limits import Limits
    from llmserve.api.load_status import LoadStatus
    from llmserve.fleet.connection import WorkerConnection
    from llmserve.fleet.lease import Lease

T = TypeVar("T")
Read: TypeAlias = "Callable[[WorkerConnection, Lease, Limits], Awaitable[T]]"

_ERROR_EVENT = re.compile(rb'data: ?\{"error"')
_CONTENT = re.compile(rb'"(?:content|reasoning_content|text)": ?"[^"]')
# The last events a worker sends hold the usage and the end mark.
_TAIL_CHUNKS = 4
_TAIL_BYTES = 4096

_log = logging.getLogger(__name__)


class Relay:
    """An ASGI response: runs `call`. `headers` join those of the answer; `load_status` tells its stream of a load."""

    def __init__(
        self, gateway: Gateway, call: Call, headers: HeaderList, load_status: LoadStatus | None = None
    ) -> None:
        self._fleet = gateway.fleet
        self._phase = gateway.phase
        self._limits = gateway.limits
        self._metrics = gateway.metrics
        self._problems = gateway.problems
        self._call = call
        self._where = f"POST {call.path}"
        self._headers = [*headers]
        self._load_status = load_status
        self._waits_for_lease = False
        self._demand = Demand(call.kind)
        self._started_at = time.perf_counter()
        self._content_seen = False
        self._tail: deque[bytes] = deque(maxlen=_TAIL_CHUNKS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        demand = read_demand(scope, self._call.kind, self._call.keep_alive_seconds)
        self._demand = replace(demand, computes=self._call.computes)
        with self._metrics.in_flight.track_inprogress():
            await until_hang_up(receive, self._stream(scope, send) if self._call.stream else self._answer(send))

    # --- not streamed ------------------------------------------------------------------------------------------------

    async def _answer(self, send: Send) -> None:
        try:
            with ExitStack() as owned:
                lease, _, body = await self._open(owned, read_answer)
                self._count_tokens(lease, body)
            # The lease is back already: a slow reader holds no model.
            await self._reply(send, 200, body)
        except WorkerRefusal as error:
            self._note(error)
            await self._reply(send, error.status, error.body)

    def _note(self, error: WorkerRefusal) -> None:
        self._problems.refused_by_worker(self._where, error.status, error.body)

    async def _reply(self, send: Send, status: int, body: bytes) -> None:
        headers = [*json_headers(body), *self._headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    # --- streamed ----------------------------------------------------------------------------------------------------

    async def _stream(self, scope: Scope, send: Send) -> None:
        """Until the stream has started a failure is a real status; from then on it is an event."""
        keep_alive = self._limits.keep_alive_seconds
        async with EventStream(scope, send, self._headers, keep_alive, self._waits_for) as stream:
            try:
                with ExitStack() as owned:
                    await self._relay(stream, owned)
                await stream.end()
            except WorkerRefusal as error:
                self._note(error)
                if stream.started:
                    await stream.end(b"data: " + error.body + b"\n\n")
                else:
                    await self._reply(send, error.status, error.body)
            except Exception as error:
                if not stream.started:
                    raise
                answer = as_answer(error, self._call.request_id)
                self._problems.refused(self._where, answer)
                await stream.end(sse.error_event(answer))

    def _waits_for(self) -> str | None:
        """What the model is doing while it is loaded, where it says so."""
        return self._phase(self._call.model)

    async def _relay(self, stream: EventStream, owned: ExitStack) -> None:
        opening = asyncio.create_task(self._open(owned, first_events))
        try:
            await asyncio.wait({opening}, timeout=self._limits.grace_seconds)
            if not opening.done():
                await stream.start()
                if self._load_status is not None:
                    await self._load_status.follow(stream, opening, lambda: self._waits_for_lease)
            lease, connection, (first, events) = await opening
        finally:
            await cancel(opening)
        await stream.start()

        def look(passing: bytes) -> None:
            self._look(lease, passing)

        look(first)
        stream.write(first)
        try:
            await Pump(connection, stream, events, look).run(self._limits.first_byte_seconds)
        except httpx2.TransportError as error:
            raise await translated(error, lease) from error
        except Nonsense as error:
            lease.condemn(error.message)
            raise
        ending = b"".join(self._tail)
        if not ending.endswith(sse.DONE) and not _ERROR_EVENT.search(ending):
            raise ended_early()
        self._count_tokens(lease, ending)

    def _look(self, lease: Lease, passing: bytes) -> None:
        """Note of the events that pass what the metrics and the end want to know."""
        if not self._content_seen and _CONTENT.search(passing):
            self._content_seen = True
            self._metrics.first_content(lease.model.name, time.perf_counter() - self._started_at)
        self._tail.append(passing)

    # --- both --------------------------------------------------------------------------------------------------------

    async def _open(self, owned: ExitStack, read: Read[T]) -> tuple[Lease, WorkerConnection, T]:
        """A lease, the worker's answer with status 200, and what `read` takes of it; `owned` gives the two back.

        Of two workers if need be. Raises `WorkerRefusal`, what `Fleet.lease` raises, and `WorkerDied` or
        `DeadlineExceeded`.
        """
        try:
            return await self._ask(await self._lease(owned), owned, read)
        except _Lost as lost:
            _log.warning("request %s goes to another worker: %s", self._call.request_id, lost.reason.message)
            self._metrics.retried(lost.model)
            owned.close()
        try:
            return await self._ask(await self._lease(owned), owned, read)
        except _Lost as lost:
            raise lost.reason from None

    async def _lease(self, owned: ExitStack) -> Lease:
        asked_at = time.perf_counter()
        self._waits_for_lease = True
        lease = await self._fleet.lease(self._call.model, self._demand)
        self._waits_for_lease = False
        owned.callback(lease.release)
        self._metrics.waited(lease.model.name, time.perf_counter() - asked_at)
        if lease.fallback is not None:
            self._announce((b"x-llmserve-fallback", header_value(lease.fallback)))
        return lease

    def _announce(self, header: tuple[bytes, bytes]) -> None:
        """Add a header of the answer, in place of an earlier one of the name; a stream that has begun is past it."""
        self._headers[:] = [*(other for other in self._headers if other[0] != header[0]), header]

    async def _ask(self, lease: Lease, owned: ExitStack, read: Read[T]) -> tuple[Lease, WorkerConnection, T]:
        """As `_open`, of one worker. Raises `_Lost` where another may do better."""
        try:
            connection = await open_upstream(lease, self._call, self._limits)
            owned.callback(connection.abort)
            if connection.status != 200:
                raise await refusal(connection, lease, self._limits)
            return lease, connection, await read(connection, lease, self._limits)
        except Nonsense as error:
            lease.condemn(error.message)
            raise _Lost(lease.model.name, error) from error
        except WorkerDied as error:
            if error.code != WorkerDied.default_code:
                raise
            raise _Lost(lease.model.name, error) from error

    def _count_tokens(self, lease: Lease, tail: bytes) -> None:
        if reported := reported_tokens(tail[-_TAIL_BYTES:]):
            self._metrics.tokens(lease.model.name, *reported)


class _Lost(Exception):
    """A worker of `model` was lost before anything of its answer was sent."""

    def __init__(self, model: str, reason: WorkerDied) -> None:
        super().__init__(reason.message)
        self.model = model
        self.reason = reason
