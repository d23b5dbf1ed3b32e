"""One request to a vLLM server, for whoever expects a worker of the internal protocol.

The request is translated when it is sent, and what cannot be asked of vLLM is answered without it. A stream is
translated as it arrives; every other answer when it is whole, and only then it has a status.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx2

from llmserve.errors import LlmserveError, WorkerDied
from llmserve.fleet.connection import WorkerConnection
from llmserve.openai.json import dump_json
from llmserve.vllm import answers, errors, requests
from llmserve.vllm.events import EventTranslator
from llmserve.vllm.served_model import ServedModel

_MOST_ANSWER_BYTES = 256 * 1024 * 1024


class Traffic:
    """How many requests are open at one server."""

    def __init__(self) -> None:
        self.open = 0


async def connect(socket: Path, timeout_seconds: float | None, model: ServedModel, traffic: Traffic) -> VllmConnection:
    """A connection to the server that listens on `socket`. Raises httpx2's `ConnectError` or `ConnectTimeout`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_seconds):
            _, connection = await loop.create_unix_connection(lambda: VllmConnection(model, traffic), str(socket))
    except TimeoutError as error:
        raise httpx2.ConnectTimeout("the worker does not take the connection") from error
    except OSError as error:
        raise httpx2.ConnectError(f"cannot connect to the worker: {error.strerror}") from error
    return connection


class VllmConnection(WorkerConnection):
    """As its base class, with translators in both directions."""

    def __init__(self, model: ServedModel, traffic: Traffic) -> None:
        super().__init__()
        self._model = model
        self._traffic = traffic
        self._path = ""
        self._identity = ""
        self._request: dict[str, Any] = {}
        self._copies = 1
        self._events: EventTranslator | None = None
        self._their_status = 0
        self._whole: list[bytes] = []
        self._whole_bytes = 0

    def send(self, method: str, path: bytes, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send the translation of a canonical request."""
        self._path = path.decode("ascii")
        kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        given = next((value for name, value in kept if name.lower() == b"x-request-id"), b"")
        self._identity = given.decode("ascii") or f"cmpl-{uuid.uuid4().hex}"
        try:
            self._request = requests.translated(self._path, body, self._model)
            self._copies = requests.take_copies(self._request)
        except LlmserveError as error:
            self._answer(error.status, dump_json(error.body()))
            self.complete = True
            self._transport.abort()
            return
        sent = requests.encoded(self._request)
        super().send(method, path, [*kept, (b"Content-Length", str(len(sent)).encode())], sent)

    # --- called by the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._traffic.open += 1
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._traffic.open -= 1
        super().connection_lost(error)

    # --- called by the parser ----------------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        self._their_status = self._parser.get_status_code()
        if self._their_status == 200 and self.header(b"content-type").startswith(b"text/event-stream"):
            self._events = EventTranslator(
                self._identity,
                self._model,
                chat=self._path == requests.CHAT,
                prompt_field=requests.prompt_field(self._path),
                copies=self._copies,
            )
            super().on_headers_complete()

    def on_body(self, piece: bytes) -> None:
        if self._events is not None:
            if translated := self._events.feed(piece):
                super().on_body(translated)
            return
        self._whole_bytes += len(piece)
        if self._whole_bytes <= _MOST_ANSWER_BYTES:
            self._whole.append(piece)

    def on_message_complete(self) -> None:
        if self._events is None:
            self._translate_whole()
        super().on_message_complete()

    def _translate_whole(self) -> None:
        body = b"".join(self._whole)
        self._whole.clear()
        try:
            if self._their_status == 200 and self._path == "/v1/embeddings":
                # The shape is the same, and parsing a million numbers is not for the event loop.
                self._answer(200, body)
            elif self._their_status == 200:
                answer = answers.translated(
                    self._path, _parsed(body), self._request, self._identity, self._model, self._copies
                )
                self._answer(200, _encoded(answer))
            else:
                field = requests.prompt_field(self._path)
                raise errors.translated(self._their_status, _parsed(body), prompt_field=field)
        except LlmserveError as error:
            self._answer(error.status, dump_json(error.body()))

    def _answer(self, status: int, body: bytes) -> None:
        """Make this the response."""
        self.status = status
        self.headers = [(b"content-type", b"application/json")]
        self._pieces = [body]
        self._arrived.set()


def _encoded(answer: dict[str, Any]) -> bytes:
    """The body of an answer. Raises `WorkerDied` for text that is none, such as half of a surrogate pair."""
    try:
        return dump_json(answer)
    except ValueError:
        raise WorkerDied("the worker's answer makes no sense", code="worker_protocol_error") from None


def _parsed(body: bytes) -> Any:
    """The value of a body. Raises `WorkerDied` for what is no JSON."""
    try:
        return json.loads(body)
    except ValueError:
        raise WorkerDied("the worker's answer makes no sense", code="worker_protocol_error") from None
