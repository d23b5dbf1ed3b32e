"""A response of another one: what a relay answers, in the words of another dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve.api.replies import HeaderList, json_headers
from llmserve.dialects.translation import Translation
from llmserve.errors import WorkerDied
from llmserve.openai import sse

_REPLACED = {b"content-type", b"content-length"}
# Translating takes about 20 ms per MB: a larger answer goes to a thread.
_INLINE_BYTES = 64 * 1024


BeforeSending = Callable[[], Awaitable[None]]


class Translated:
    """An ASGI response: `answer`, which speaks OpenAI's dialect as `Relay` does, told by `translation`.

    `before_sending` is awaited when something has been translated and before the client gets it.
    """

    def __init__(self, answer: ASGIApp, translation: Translation, before_sending: BeforeSending | None = None) -> None:
        self._answer = answer
        self._translation = translation
        self._before_sending = before_sending or _nothing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, _Teller(self._translation, send, self._before_sending))


class _Teller:
    """A `send` that translates."""

    def __init__(self, translation: Translation, send: Send, before_sending: BeforeSending) -> None:
        self._translation = translation
        self._send = send
        self._before_sending = before_sending
        self._streaming = False
        self._status = 200
        self._headers: HeaderList = []
        self._held: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._streaming:
            await self._stream(message)
        else:
            await self._whole(message)

    async def _start(self, message: Message) -> None:
        headers = message["headers"]
        self._status = message["status"]
        self._streaming = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
        )
        self._headers = [(name, value) for name, value in headers if name not in _REPLACED]
        if self._streaming:
            head = [(b"content-type", self._translation.stream_type), *self._headers]
            await self._send({**message, "headers": head})

    async def _stream(self, message: Message) -> None:
        events = message.get("body", b"")
        try:
            # One alone, whatever it says: those of a stream that waits for a load name what it waits for.
            is_comment = events.startswith(b":") and events.find(b"\n\n") == len(events) - 2
            told = self._translation.keep_alive() if is_comment else _sound(self._translation.stream, events)
        except WorkerDied as error:
            # The relay learns of it too late to tell the client.
            last = self._translation.stream(sse.error_event(error))
            await self._send({"type": "http.response.body", "body": last})
            raise
        if told or not message.get("more_body", False):
            await self._before_sending()
            await self._send({**message, "body": told})

    async def _whole(self, message: Message) -> None:
        self._held.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        body = b"".join(self._held)
        if self._status != 200:
            told = self._translation.error(self._status, body)
        elif len(body) <= _INLINE_BYTES:
            told = _sound(self._translation.whole, body)
        else:
            told = await asyncio.to_thread(_sound, self._translation.whole, body)
        await self._before_sending()
        headers = [*json_headers(told), *self._headers]
        await self._send({"type": "http.response.start", "status": self._status, "headers": headers})
        await self._send({"type": "http.response.body", "body": told})


async def _nothing() -> None:
    pass


def _sound(translate: Callable[[bytes], bytes], answer: bytes) -> bytes:
    """The translation of what a worker said. Raises `WorkerDied` where that makes no sense."""
    try:
        return translate(answer)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WorkerDied("the worker's answer makes no sense", code="worker_protocol_error") from error
