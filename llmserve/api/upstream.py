"""The gateway's side of one request to a worker: open it, read it, and say what went wrong in the client's terms."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2

from llmserve.errors import DeadlineExceeded, InvalidRequest, LlmserveError, WorkerDied
from llmserve.openai.json import dump_json, parse_json
from llmserve.types import ModelKind

if TYPE_CHECKING:
    from llmserve.api.limits import Limits
    from llmserve.fleet.connection import WorkerConnection
    from llmserve.fleet.lease import Lease

_CONNECT_SECONDS = 5.0
# The kernel closes a dead worker's socket before its parent has collected the exit status.
_OBITUARY_SECONDS = 0.3

# Where a worker answers without its engine.
_LOOKED_UP = frozenset({"/tokenize", "/detokenize"})

_EVENT_END = b"\n\n"
_EVENT_STARTS = (b"data:", b":")
_NO_EVENT = re.compile(rb"\n\n(?!data:|:|\Z)")
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens": ?([0-9]{1,12})\b')
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?([0-9]{1,12})\b')


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the worker will get it. `body` is the canonical request; `model` the name the client used.

    `kind` is the kind of model that can answer it, None where any can. `keep_alive_seconds` is how long the model stays
    loaded afterwards, where the request says so.
    """

    path: str
    model: str
    kind: ModelKind | None
    stream: bool
    body: bytes
    request_id: str
    keep_alive_seconds: float | None = None

    @property
    def computes(self) -> bool:
        """Whether the model has to compute for it: tokens are only looked up."""
        return self.path not in _LOOKED_UP


class Nonsense(WorkerDied):
    """The worker sent what the protocol does not know. It is of no use any more."""

    default_code = "worker_protocol_error"

    def __init__(self) -> None:
        super().__init__("the worker's answer makes no sense")


class WorkerRefusal(Exception):
    """The worker answered with an error of its own: `status`, and `body` in OpenAI's shape on one line."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the worker answered with status {status}")
        self.status = status
        self.body = body


async def open_upstream(lease: Lease, call: Call, limits: Limits) -> WorkerConnection:
    """Send `call` and return the connection once the response's headers are here; the caller aborts it.

    Raises `WorkerDied` or `DeadlineExceeded`.
    """
    headers = (
        (b"Host", b"worker"),
        (b"Content-Type", b"application/json"),
        (b"Content-Length", str(len(call.body)).encode()),
        (b"Accept-Encoding", b"identity"),
        (b"X-Request-Id", call.request_id.encode("ascii")),
    )
    try:
        connection = await lease.connect(_CONNECT_SECONDS)
        try:
            connection.send("POST", call.path.encode("ascii"), headers, call.body)
            await connection.response(limits.first_byte_seconds if call.stream else limits.answer_seconds)
        except BaseException:
            connection.abort()
            raise
    except httpx2.TransportError as error:
        raise await translated(error, lease) from error
    return connection


class WholeEvents:
    """Cuts the body of an event stream where events end, whatever pieces it comes in."""

    def __init__(self, limit: int) -> None:
        """`limit`: of one event, in bytes."""
        self._limit = limit
        self._held = b""

    @property
    def in_event(self) -> bool:
        """Whether the beginning of an event waits for the rest."""
        return bool(self._held)

    def feed(self, piece: bytes) -> bytes:
        """The events that `piece` completes, as they came. Raises `Nonsense` for what is no event."""
        held = self._held + piece if self._held else piece
        end = len(held) if held.endswith(_EVENT_END) else held.rfind(_EVENT_END) + len(_EVENT_END)
        if end < len(_EVENT_END):
            if len(held) > self._limit:
                raise Nonsense()
            self._held = held
            return b""
        whole, self._held = held[:end], held[end:]
        if not whole.startswith(_EVENT_STARTS) or _NO_EVENT.search(whole):
            raise Nonsense()
        return whole


async def first_events(connection: WorkerConnection, lease: Lease, limits: Limits) -> tuple[bytes, WholeEvents]:
    """The first whole events of a stream, and what cuts the rest of it.

    Raises `Nonsense` where the body is no event stream, `WorkerDied` when it ends or breaks off before, and
    `DeadlineExceeded` when the worker falls silent.
    """
    if not connection.header(b"content-type").startswith(b"text/event-stream"):
        raise Nonsense()
    events = WholeEvents(limits.event_bytes)
    async for piece in _pieces(connection, lease, limits.first_byte_seconds):
        if whole := events.feed(piece):
            return whole, events
    raise Nonsense() if events.in_event else ended_early()


async def read_answer(connection: WorkerConnection, lease: Lease, limits: Limits) -> bytes:
    """The whole JSON body. Raises `Nonsense`, `WorkerDied` or `DeadlineExceeded`."""
    parts: list[bytes] = []
    size = 0
    async for piece in _pieces(connection, lease, limits.answer_seconds):
        size += len(piece)
        if size > limits.answer_bytes:
            raise Nonsense()
        parts.append(piece)
    body = b"".join(parts)
    # Enough to tell an answer from garbage; the text in it is the model's, and its parsing the client's work.
    if not (body.startswith(b"{") and body.rstrip().endswith(b"}")):
        raise Nonsense()
    return body


async def _pieces(connection: WorkerConnection, lease: Lease, silence_seconds: float) -> AsyncIterator[bytes]:
    try:
        while True:
            if piece := connection.take():
                yield piece
            elif connection.complete:
                return
            else:
                await connection.more(silence_seconds)
    except httpx2.TransportError as error:
        raise await translated(error, lease) from error


async def refusal(connection: WorkerConnection, lease: Lease, limits: Limits) -> WorkerRefusal:
    """The error that a response carries whose status is not 200. Raises `WorkerDied` where it makes no sense."""
    body = await read_answer(connection, lease, limits)
    try:
        value = parse_json(body)
    except InvalidRequest:
        raise Nonsense() from None
    status = connection.status or 500
    if status == 500 or not 400 <= status < 600 or not isinstance(value, dict) or "error" not in value:
        # A fault inside the worker: its own words are not for a client.
        raise WorkerDied("the worker failed to answer", code="worker_error")
    return WorkerRefusal(status, dump_json(value))


def reported_tokens(tail: bytes) -> tuple[int, int] | None:
    """Prompt and completion tokens from the last usage object in `tail`, without parsing it; embeddings complete none.

    Text of the model cannot imitate one: inside a JSON string the quotes around the key would be escaped.
    """
    prompt, completion = _PROMPT_TOKENS.findall(tail), _COMPLETION_TOKENS.findall(tail)
    return (int(prompt[-1]), int(completion[-1]) if completion else 0) if prompt else None


async def translated(error: httpx2.TransportError, lease: Lease) -> LlmserveError:
    """What a broken connection to the worker means to the client."""
    if isinstance(error, httpx2.TimeoutException):
        return DeadlineExceeded("the worker took too long to answer")
    with suppress(TimeoutError):
        await asyncio.wait_for(lease.died.wait(), _OBITUARY_SECONDS)
    return lease.reason()


def ended_early() -> WorkerDied:
    return WorkerDied("the worker ended the answer too early")
