"""The gateway's side of one request to a worker: open it, read it, and say what went wrong in the client's terms."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2

from llmserve.errors import DeadlineExceeded, InvalidRequest, LlmserveError, WorkerDied
from llmserve.openai.json import dump_json, parse_json
from llmserve.types import ModelKind

if TYPE_CHECKING:
    from llmserve.api.limits import Limits
    from llmserve.fleet.lease import Lease

_CONNECT_SECONDS = 5.0
# The kernel closes a dead worker's socket before its parent has collected the exit status.
_OBITUARY_SECONDS = 0.3

_EVENT_END = b"\n\n"
_EVENT_STARTS = (b"data:", b":")
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens": ?([0-9]{1,12})\b')
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?([0-9]{1,12})\b')


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the worker will get it. `body` is the canonical request; `model` the name the client used.

    `kind` is the kind of model that can answer it, None where any can.
    """

    path: str
    model: str
    kind: ModelKind | None
    stream: bool
    body: bytes
    request_id: str


class WorkerRefusal(Exception):
    """The worker answered with an error of its own: `status`, and `body` in OpenAI's shape on one line."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the worker answered with status {status}")
        self.status = status
        self.body = body


async def open_upstream(lease: Lease, call: Call, limits: Limits) -> httpx2.Response:
    """Send `call` and return the response with its body unread; the caller closes it.

    Raises `WorkerDied` or `DeadlineExceeded`.
    """
    silence = limits.first_byte_seconds if call.stream else limits.answer_seconds
    request = lease.client.build_request(
        "POST",
        call.path,
        content=call.body,
        headers={"Content-Type": "application/json", "Accept-Encoding": "identity", "X-Request-Id": call.request_id},
        timeout=httpx2.Timeout(silence, connect=_CONNECT_SECONDS, pool=None),
    )
    try:
        return await lease.client.send(request, stream=True)
    except httpx2.TransportError as error:
        raise await _translated(error, lease) from error


async def events(upstream: httpx2.Response, lease: Lease, limit: int) -> AsyncGenerator[bytes]:
    """The body's bytes as they arrive, cut only where an event ends; what was yielded is always whole events.

    Raises `WorkerDied` when the body breaks off, is no event stream or holds an event longer than `limit` bytes, and
    `DeadlineExceeded` when the worker falls silent.
    """
    if not upstream.headers.get("content-type", "").startswith("text/event-stream"):
        raise _nonsense()
    held = b""
    try:
        async for chunk in upstream.aiter_raw():
            held = held + chunk if held else chunk
            end = len(held) if held.endswith(_EVENT_END) else held.rfind(_EVENT_END) + len(_EVENT_END)
            if end < len(_EVENT_END):
                if len(held) > limit:
                    raise _nonsense()
                continue
            whole, held = held[:end], held[end:]
            if not all(event.startswith(_EVENT_STARTS) for event in whole.split(_EVENT_END)[:-1]):
                raise _nonsense()
            yield whole
    except httpx2.TransportError as error:
        raise await _translated(error, lease) from error
    if held:
        raise _nonsense()


async def read_answer(upstream: httpx2.Response, lease: Lease, limit: int) -> bytes:
    """The whole JSON body. Raises as `events` does."""
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in upstream.aiter_raw():
            size += len(chunk)
            if size > limit:
                raise _nonsense()
            parts.append(chunk)
    except httpx2.TransportError as error:
        raise await _translated(error, lease) from error
    body = b"".join(parts)
    # Enough to tell an answer from garbage; the text in it is the model's, and its parsing the client's work.
    if not (body.startswith(b"{") and body.rstrip().endswith(b"}")):
        raise _nonsense()
    return body


async def refusal(upstream: httpx2.Response, lease: Lease, limit: int) -> WorkerRefusal:
    """The error that `upstream`, whose status is not 200, carries. Raises `WorkerDied` where it makes no sense."""
    body = await read_answer(upstream, lease, limit)
    try:
        value = parse_json(body)
    except InvalidRequest:
        raise _nonsense() from None
    status = upstream.status_code
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


async def _translated(error: httpx2.TransportError, lease: Lease) -> LlmserveError:
    """What a broken connection to the worker means to the client."""
    if isinstance(error, httpx2.TimeoutException):
        return DeadlineExceeded("the worker took too long to answer")
    with suppress(TimeoutError):
        await asyncio.wait_for(lease.died.wait(), _OBITUARY_SECONDS)
    return lease.reason()


def _nonsense() -> WorkerDied:
    return WorkerDied("the worker's answer makes no sense", code="worker_protocol_error")
