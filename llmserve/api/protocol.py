"""HTTP/1.1 on one connection: uvicorn's httptools protocol with the bounds it lacks.

httptools has no limit on a request head and uvicorn no time-out for reading a request, so both are added here. Each
refusal is one answer in OpenAI's shape followed by the end of the connection; when an answer is already under way the
connection just ends. A request that arrives while the previous one is being answered is not read: the connection
closes after the answer, as RFC 9112 section 9.3.2 allows, so a hang-up is always noticed.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from llmserve.api.body_writer import DIRECT_WRITER, DirectWriter
from llmserve.api.guards import UPLOADS
from llmserve.api.limits import Limits
from llmserve.api.replies import error_headers, json_headers, request_id
from llmserve.errors import (
    HeadersTooLarge,
    InvalidRequest,
    LlmserveError,
    RequestTimeout,
    Unavailable,
    UrlTooLong,
)
from llmserve.openai.json import dump_json


class GuardedProtocol(HttpToolsProtocol):
    """One client connection. Subclass it with `bounded` to set other limits."""

    limits: ClassVar[Limits] = Limits()

    # --- connection --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._refusal: LlmserveError | None = None
        self._reading_body = False
        self._deaf = False
        self._received_any = False
        self._unclaimed_bytes = 0
        self._read_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._direct_writer: DirectWriter | None = None
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(Unavailable("too many connections", retry_after=1))
            return
        self._read_within(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._received_any = True
        if self._read_timer is None and not self._reading_body:
            self._read_within(self.limits.header_seconds)
        # Bytes that no callback has claimed yet: an unfinished head, or chunk extensions and trailers without end.
        self._unclaimed_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._deaf:
                self._refuse(self._refusal or InvalidRequest("malformed HTTP request"))
            return
        if self._unclaimed_bytes > self.limits.header_bytes:
            self._refuse(self._headers_too_large())

    # --- parser callbacks --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self._deaf = True
            raise InvalidRequest("pipelined request")
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            self._fail(UrlTooLong(f"the URL is longer than {self.limits.url_bytes} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading_body:
            return  # A trailer: dropped, because it would change the headers the guards have already judged.
        if len(self.headers) >= self.limits.header_lines:
            self._fail(self._headers_too_large())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unclaimed_bytes = 0
        if sum(len(name) + len(value) + 4 for name, value in self.headers) > self.limits.header_bytes:
            self._fail(self._headers_too_large())
        if not self.url.startswith(b"/"):
            self._fail(InvalidRequest("the request target must be a path"))
        if self.parser.should_upgrade():
            self._fail(InvalidRequest("protocol upgrades are not supported", hint="use plain HTTP/1.1"))
        super().on_headers_complete()
        self._direct_writer = DirectWriter(self.cycle, self.flow)
        # The application's task begins with the next turn of the loop, and finds it there.
        self.cycle.scope["extensions"] = {DIRECT_WRITER: self._direct_writer}  # type: ignore[dict-item]
        self._reading_body = True
        is_upload = self.scope["path"] in UPLOADS
        self._read_within(self.limits.upload_seconds if is_upload else self.limits.body_seconds)

    def on_body(self, body: bytes) -> None:
        self._unclaimed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unclaimed_bytes = 0
        self._reading_body = False
        self._cancel_read_timer()
        super().on_message_complete()

    # --- writing -----------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._reading_body:
            # Answered before the body was read: what remains of it is not worth reading.
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_stall()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._direct_writer is not None:
            self._direct_writer.resumed()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # --- time-outs ---------------------------------------------------------------------------------------------------

    def _read_within(self, seconds: float) -> None:
        self._cancel_read_timer()
        self._read_timer = self.loop.call_later(seconds, self._read_too_slow)

    def _read_too_slow(self) -> None:
        self._read_timer = None
        if self._received_any:
            part = "body" if self._reading_body else "headers"
            self._refuse(RequestTimeout(f"the request's {part} took too long to arrive"))
        else:
            self.transport.close()

    def _watch_stall(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(self.limits.send_stall_seconds, self._stalled, waiting)

    def _stalled(self, waiting_before: int) -> None:
        if self.transport.get_write_buffer_size() < waiting_before:
            self._watch_stall()
        else:
            self.transport.abort()

    def _cancel_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _stop_timers(self) -> None:
        self._cancel_read_timer()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # --- refusals ----------------------------------------------------------------------------------------------------

    def _headers_too_large(self) -> HeadersTooLarge:
        limits = self.limits
        return HeadersTooLarge(f"more than {limits.header_bytes} bytes or {limits.header_lines} lines of headers")

    def _fail(self, error: LlmserveError) -> None:
        """Stop the parser: httptools reports any exception of a callback as its own, so the reason is kept here."""
        self._refusal = error
        raise error

    def _refuse(self, error: LlmserveError) -> None:
        """Answer `error` unless an answer has begun, and close. The application sees a client that hung up."""
        self._deaf = True
        self._stop_timers()
        cycle: RequestResponseCycle | None = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if cycle is not None and answering:
            cycle.disconnected = True
            cycle.message_event.set()
        if not (cycle is not None and answering and cycle.response_started):
            self.transport.write(self._answer(error))
        self.transport.close()

    def _answer(self, error: LlmserveError) -> bytes:
        body = dump_json(error.body())
        headers = [
            *self.server_state.default_headers,
            *json_headers(body),
            *error_headers(error),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", request_id(()).encode()),
            (b"connection", b"close"),
        ]
        lines = [STATUS_LINE[error.status], *(name + b": " + value + b"\r\n" for name, value in headers), b"\r\n"]
        return b"".join([*lines, body])


def bounded(limits: Limits) -> type[GuardedProtocol]:
    """The protocol class that keeps `limits`; uvicorn builds one instance per connection."""

    class Bounded(GuardedProtocol):
        pass

    Bounded.limits = limits
    return Bounded
