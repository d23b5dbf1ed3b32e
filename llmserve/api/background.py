"""Responses that are written whether or not anybody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve.api.envelope import as_answer
from llmserve.api.event_stream import EventStream
from llmserve.api.tasks import until_hang_up
from llmserve.dialects.translation import error_fields

if TYPE_CHECKING:
    from llmserve.dialects.responses.answers import ResponseTranslation

_EVENT_END = b"\n\n"


class BackgroundResponse:
    """One response in the making: `answer`, told by `translation`, with nobody at the other end.

    `events` are what a listener gets, each at the place of its sequence number.
    """

    def __init__(self, answer: ASGIApp, translation: ResponseTranslation, scope: Scope) -> None:
        self.events: list[bytes] = []
        self._answer = answer
        self._translation = translation
        self._scope = dict(scope)
        self._more = asyncio.Event()
        self._status = 200
        self._task: asyncio.Task[None] | None = None

    @property
    def response(self) -> dict[str, Any]:
        return self._translation.response

    def start(self, at_end: Callable[[], Awaitable[None]]) -> None:
        """Begin; `at_end` is awaited when the response has become final."""
        self._task = asyncio.create_task(self._run(at_end))

    async def cancel(self) -> None:
        """End it where it stands, unless it has ended by itself, and return when that is done."""
        if self._task is not None:
            # One that is final is about to be kept, which is not to be interrupted.
            if not self._translation.is_final:
                self._translation.cancel()
                self._task.cancel()
            await asyncio.wait({self._task})

    async def ended(self) -> None:
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self, at_end: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._answer(self._scope, _nobody, self._hear)
        except asyncio.CancelledError:
            self._translation.cancel()
        except Exception as error:
            request_id = self._scope["state"]["request_id"]
            self._add(self._translation.failed(as_answer(error, request_id).body()["error"]))
        await at_end()
        self._tell()

    async def _hear(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif self._status == 200:
            self._add(message.get("body", b""))
        else:
            self._add(self._translation.failed(error_fields(message.get("body", b""))))

    def _add(self, events: bytes) -> None:
        # A comment has no number, and is made anew for each listener.
        whole = [event + _EVENT_END for event in events.split(_EVENT_END) if event.startswith(b"event:")]
        if whole:
            self.events += whole
            self._tell()

    def _tell(self) -> None:
        more, self._more = self._more, asyncio.Event()
        more.set()

    async def follow(self, begin: int, tell: Callable[[bytes], None]) -> None:
        """Tell the events from the number `begin` on, as they come, until the last."""
        place = begin
        while True:
            more = self._more
            is_over = self._task is None or self._task.done() or self._translation.is_final
            if place < len(self.events):
                tell(b"".join(self.events[place:]))
                place = len(self.events)
            elif is_over:
                return
            else:
                await more.wait()


class FollowedResponse:
    """An ASGI response: the events of a response in the making, from the number `begin` on."""

    def __init__(self, background: BackgroundResponse, begin: int, keep_alive_seconds: float) -> None:
        self._background = background
        self._begin = begin
        self._keep_alive_seconds = keep_alive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_hang_up(receive, self._stream(scope, send))

    async def _stream(self, scope: Scope, send: Send) -> None:
        async with EventStream(scope, send, [], self._keep_alive_seconds) as stream:
            await stream.start()
            await self._background.follow(self._begin, stream.write)
            await stream.end()


async def _nobody() -> Message:
    """What a client sends that is not there: nothing, ever."""
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}
