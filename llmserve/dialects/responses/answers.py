"""Answers to `POST /v1/responses`: numbered events, or the whole response."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from llmserve.dialects.chat_answer import read_answer, read_count
from llmserve.dialects.chat_events import (
    CallArguments,
    CallStart,
    ChatEvent,
    ChatEventReader,
    Content,
    Done,
    Failed,
    Thought,
)
from llmserve.dialects.responses.response import Event, ResponseWriter
from llmserve.dialects.translation import ErrorFields
from llmserve.openai import sse
from llmserve.openai.json import dump_ascii_json, dump_json


class ResponseTranslation:
    """The answer to one request; `response` is the object as `new_response` makes it, and is written into."""

    stream_type: ClassVar[bytes] = b"text/event-stream; charset=utf-8"

    def __init__(self, response: dict[str, Any]) -> None:
        self._writer = ResponseWriter(response)
        self._reader = ChatEventReader()
        self._numbered = 0

    @property
    def response(self) -> dict[str, Any]:
        return self._writer.response

    @property
    def is_final(self) -> bool:
        """Whether the response changes no more."""
        return self._writer.is_final

    def stream(self, events: bytes) -> bytes:
        return self._bytes(told for event in self._reader.feed(events) for told in self._writer.write(event))

    def keep_alive(self) -> bytes:
        return self._bytes(self._writer.begin()) or sse.KEEP_ALIVE

    def whole(self, body: bytes) -> bytes:
        for event in _as_events(body):
            for _ in self._writer.write(event):
                pass
        return dump_json(self._writer.response)

    def error(self, status: int, body: bytes) -> bytes:
        return body

    def failed(self, error: ErrorFields) -> bytes:
        """The events of a response that ends with `error`; nothing where it has ended already."""
        return b"" if self.is_final else self._bytes(self._writer.write(Failed(error)))

    def cancel(self) -> None:
        """End the response where it stands."""
        if not self.is_final:
            self._writer.response["status"] = "cancelled"

    def _bytes(self, events: Iterable[Event]) -> bytes:
        told = b""
        for event in events:
            text = dump_ascii_json({**event, "sequence_number": self._numbered})
            told += f"event: {event['type']}\ndata: {text}\n\n".encode()
            self._numbered += 1
        return told


class CountTranslation:
    """The answer to a request that asks how long its prompt is."""

    stream_type: ClassVar[bytes] = b"application/json"

    def stream(self, events: bytes) -> bytes:
        return b""

    def keep_alive(self) -> bytes:
        return b""

    def whole(self, body: bytes) -> bytes:
        return dump_json({"object": "response.input_tokens", "input_tokens": read_count(body)})

    def error(self, status: int, body: bytes) -> bytes:
        return body


def _as_events(body: bytes) -> Iterable[ChatEvent]:
    """A whole answer as the events that it would have been streamed in."""
    answer = read_answer(body)
    if answer.reasoning:
        yield Thought(answer.reasoning)
    if answer.text:
        yield Content(answer.text, answer.logprobs)
    for number, call in enumerate(answer.calls):
        yield CallStart(number, call.id, call.name)
        if call.arguments:
            yield CallArguments(number, call.arguments)
    yield answer.finish
    yield answer.counts
    yield Done()
