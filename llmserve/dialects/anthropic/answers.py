"""Answers to `/v1/messages`: a message, or the events from which a client builds one.

    message_start, (content_block_start, content_block_delta ..., content_block_stop) ..., message_delta, message_stop

with a `ping` after the first block has begun and whenever nothing else is sent, and `error` as the last event of an
answer that breaks off.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from llmserve.dialects.anthropic.errors import error_object
from llmserve.dialects.chat_answer import read_answer, read_count
from llmserve.dialects.chat_events import (
    CallArguments,
    CallStart,
    ChatEvent,
    ChatEventReader,
    Content,
    Counts,
    Done,
    Failed,
    Finish,
    Thought,
)
from llmserve.dialects.translation import error_fields
from llmserve.openai.json import dump_ascii_json, dump_json

_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class MessageTranslation:
    """The answer to one request for `model`, with these `stop_sequences`."""

    stream_type: ClassVar[bytes] = b"text/event-stream; charset=utf-8"

    def __init__(self, request_id: str, model: str, stop_sequences: Sequence[str]) -> None:
        self._request_id = request_id
        self._id = f"msg_{request_id.removeprefix('req-')}"
        self._model = model
        self._stop_sequences = frozenset(stop_sequences)
        self._reader = ChatEventReader()
        self._started = False
        self._block: str | None = None  # the type of the block that is being written
        self._index = -1
        self._finish = Finish("stop")
        self._counts: Counts | None = None

    def stream(self, events: bytes) -> bytes:
        return b"".join(told for event in self._reader.feed(events) for told in self._events(event))

    def keep_alive(self) -> bytes:
        return _PING

    def whole(self, body: bytes) -> bytes:
        answer = read_answer(body)
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": self._id})
        if answer.text:
            content.append({"type": "text", "text": answer.text})
        for call in answer.calls:
            content.append(_tool_use(call.id, call.name, call.arguments))
        return dump_json(self._message(content, answer.finish, usage(answer.counts)))

    def error(self, status: int, body: bytes) -> bytes:
        return dump_json(error_object(error_fields(body), self._request_id, status))

    # --- events ---

    def _events(self, event: ChatEvent) -> Iterable[bytes]:
        if isinstance(event, Failed):
            yield _event(error_object(event.error, self._request_id))
            return
        if not self._started:
            self._started = True
            message = self._message([], None, {"input_tokens": 0, "output_tokens": 0})
            yield _event({"type": "message_start", "message": message})
        match event:
            case Thought(text):
                yield from self._in_block("thinking", {"thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": text})
            case Content(text):
                yield from self._in_block("text", {"text": ""})
                yield self._delta({"type": "text_delta", "text": text})
            case CallStart(_, id, name):
                yield from self._block_ended()
                yield from self._in_block("tool_use", {"id": id, "name": name, "input": {}})
            case CallArguments(_, text):
                yield self._delta({"type": "input_json_delta", "partial_json": text})
            case Finish():
                yield from self._block_ended()
                self._finish = event
            case Counts():
                self._counts = event
            case Done():
                yield from self._block_ended()
                yield from self._message_ended()

    def _in_block(self, kind: str, fields: dict[str, Any]) -> Iterable[bytes]:
        """Begin a block of this type, unless one is being written."""
        if self._block == kind:
            return
        yield from self._block_ended()
        self._block = kind
        self._index += 1
        block = {"type": kind, **fields}
        yield _event({"type": "content_block_start", "index": self._index, "content_block": block})
        if self._index == 0:
            yield _PING

    def _block_ended(self) -> Iterable[bytes]:
        if self._block is None:
            return
        if self._block == "thinking":
            # Clients send thoughts back with it, and drop those without; nobody here checks it.
            yield self._delta({"type": "signature_delta", "signature": self._id})
        self._block = None
        yield _event({"type": "content_block_stop", "index": self._index})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _message_ended(self) -> Iterable[bytes]:
        counted = usage(self._counts) if self._counts is not None else {"output_tokens": 0}
        yield _event({"type": "message_delta", "delta": self._ending(self._finish), "usage": counted})
        yield _event({"type": "message_stop"})

    # --- parts ---

    def _message(self, content: list[dict[str, Any]], finish: Finish | None, counted: dict[str, Any]) -> dict[str, Any]:
        ending = {"stop_reason": None, "stop_sequence": None} if finish is None else self._ending(finish)
        head = {"id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": content}
        return {**head, **ending, "usage": counted}

    def _ending(self, finish: Finish) -> dict[str, Any]:
        if finish.reason == "stop" and finish.stop_string in self._stop_sequences:
            return {"stop_reason": "stop_sequence", "stop_sequence": finish.stop_string}
        return {"stop_reason": _REASONS.get(finish.reason, "end_turn"), "stop_sequence": None}


class CountTranslation:
    """The answer to a request that asks how long its prompt is."""

    stream_type: ClassVar[bytes] = b"application/json"

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id

    def stream(self, events: bytes) -> bytes:
        return b""

    def keep_alive(self) -> bytes:
        return b""

    def whole(self, body: bytes) -> bytes:
        return dump_json({"input_tokens": read_count(body)})

    def error(self, status: int, body: bytes) -> bytes:
        return dump_json(error_object(error_fields(body), self._request_id, status))


def usage(counts: Counts) -> dict[str, Any]:
    """Token counts; what the cache knew is not among the `input_tokens`."""
    return {
        "input_tokens": counts.prompt_tokens - counts.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counts.cached_tokens,
        "output_tokens": counts.completion_tokens,
    }


def _tool_use(id: str, name: str, arguments: str) -> dict[str, Any]:
    try:
        return {"type": "tool_use", "id": id, "name": name, "input": json.loads(arguments or "{}")}
    except ValueError:
        # Cut off by the limit of tokens: no call, but what the model wrote.
        return {"type": "text", "text": arguments}


def _event(value: dict[str, Any]) -> bytes:
    return f"event: {value['type']}\ndata: {dump_ascii_json(value)}\n\n".encode()
