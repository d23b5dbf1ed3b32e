"""Answers to `/api/chat` and `/api/generate`, as lines of JSON or as one object, and embeddings.

Durations are nanoseconds. What a request waited for before its prompt was computed (a load, a queue) counts as loading.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

from llmserve.dialects.chat_answer import read_answer
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
from llmserve.dialects.ollama.errors import error_body
from llmserve.dialects.translation import error_fields
from llmserve.openai.json import dump_json

_REASONS = {"length": "length"}


class Clock(Protocol):
    """The time, as far as an answer states it."""

    def now(self) -> datetime: ...

    def elapsed_nanoseconds(self) -> int:
        """Since the request came."""


@dataclass(frozen=True, slots=True)
class Said:
    """A part of an answer."""

    text: str = ""
    thinking: str = ""
    calls: tuple[dict[str, Any], ...] = ()
    logprobs: tuple[Mapping[str, Any], ...] = ()


class TextTranslation:
    """An answer to `/api/chat` (`chat`) or `/api/generate`, for the model the client calls `model`."""

    stream_type: ClassVar[bytes] = b"application/x-ndjson"

    def __init__(self, model: str, clock: Clock, *, chat: bool) -> None:
        self._model = model
        self._clock = clock
        self._chat = chat
        self._reader = ChatEventReader()
        self._open_call: CallStart | None = None
        self._arguments: list[str] = []
        self._finish = Finish("stop")
        self._counts: Counts | None = None

    def stream(self, events: bytes) -> bytes:
        return b"".join(line for event in self._reader.feed(events) for line in self._lines(event))

    def keep_alive(self) -> bytes:
        return b""

    def whole(self, body: bytes) -> bytes:
        answer = read_answer(body)
        calls, cut = [], ""
        for call in answer.calls:
            if (known := _call(call.name, call.arguments)) is not None:
                calls.append(known)
            else:
                cut += call.arguments
        said = Said(answer.text + cut, answer.reasoning, tuple(calls), answer.logprobs)
        return dump_json({**self._head(), **self._body(said), **self._end(answer.finish, answer.counts)})

    def error(self, status: int, body: bytes) -> bytes:
        return error_body(error_fields(body))

    def loaded(self, reason: str) -> bytes:
        """The answer to a request that asked nothing: `load` or `unload`."""
        return dump_json({**self._head(), **self._body(Said()), "done": True, "done_reason": reason})

    # --- parts ---

    def _lines(self, event: ChatEvent) -> Iterable[bytes]:
        match event:
            case Content(text, logprobs):
                yield self._line(Said(text, logprobs=logprobs))
            case Thought(text):
                yield self._line(Said(thinking=text))
            case CallStart():
                yield from self._call_ended()
                self._open_call = event
            case CallArguments(_, text):
                self._arguments.append(text)
            case Finish():
                yield from self._call_ended()
                self._finish = event
            case Counts():
                self._counts = event
            case Failed(error):
                yield error_body(error) + b"\n"
            case Done():
                last = {**self._head(), **self._body(Said()), **self._end(self._finish, self._counts)}
                yield dump_json(last) + b"\n"

    def _call_ended(self) -> Iterable[bytes]:
        """The call that was being written, as Ollama has it: whole."""
        call, text = self._open_call, "".join(self._arguments)
        self._open_call, self._arguments = None, []
        if call is None:
            return
        known = _call(call.name, text)
        yield self._line(Said(text=text) if known is None else Said(calls=(known,)))

    def _line(self, said: Said) -> bytes:
        return dump_json({**self._head(), **self._body(said), "done": False}) + b"\n"

    def _head(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": timestamp(self._clock.now())}

    def _body(self, said: Said) -> dict[str, Any]:
        thinking = {"thinking": said.thinking} if said.thinking else {}
        logprobs = {"logprobs": [_logprob(entry) for entry in said.logprobs]} if said.logprobs else {}
        if not self._chat:
            return {"response": said.text, **thinking, **logprobs}
        calls = {"tool_calls": list(said.calls)} if said.calls else {}
        return {"message": {"role": "assistant", "content": said.text, **thinking, **calls}, **logprobs}

    def _end(self, finish: Finish, counts: Counts | None) -> dict[str, Any]:
        total = self._clock.elapsed_nanoseconds()
        end: dict[str, Any] = {
            "done": True,
            "done_reason": _REASONS.get(finish.reason, "stop"),
            "total_duration": total,
        }
        if counts is None:
            return end
        if counts.timings:
            prompt = round(counts.timings["prompt_ms"] * 1e6)
            written = round(counts.timings["predicted_ms"] * 1e6)
            end |= {
                "load_duration": max(0, total - prompt - written),
                "prompt_eval_duration": prompt,
                "eval_duration": written,
            }
        return end | {"prompt_eval_count": counts.prompt_tokens, "eval_count": counts.completion_tokens}


class EmbeddingTranslation:
    """An answer to `/api/embed`, or to `/api/embeddings` (`single`)."""

    stream_type: ClassVar[bytes] = b"application/x-ndjson"

    def __init__(self, model: str, clock: Clock, *, single: bool) -> None:
        self._model = model
        self._clock = clock
        self._single = single

    def stream(self, events: bytes) -> bytes:
        return b""

    def keep_alive(self) -> bytes:
        return b""

    def whole(self, body: bytes) -> bytes:
        answer = json.loads(body)
        vectors = [entry["embedding"] for entry in answer["data"]]
        if self._single:
            return dump_json({"embedding": vectors[0]})
        return dump_json(
            {
                "model": self._model,
                "embeddings": vectors,
                "total_duration": self._clock.elapsed_nanoseconds(),
                "prompt_eval_count": answer["usage"]["prompt_tokens"],
            }
        )

    def error(self, status: int, body: bytes) -> bytes:
        return error_body(error_fields(body))


def timestamp(moment: datetime) -> str:
    """`moment`, which knows its zone, as RFC 3339 with a `Z`."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _call(name: str, arguments: str) -> dict[str, Any] | None:
    """A call as Ollama has it, with an object of arguments.

    None where the limit of tokens cut it off: that is no call, and its text stays what the model wrote.
    """
    try:
        return {"function": {"name": name, "arguments": json.loads(arguments or "{}")}}
    except ValueError:
        return None


def _logprob(entry: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: entry[key] for key in ("token", "logprob", "bytes") if key in entry}
    if top := entry.get("top_logprobs"):
        known["top_logprobs"] = [{key: other[key] for key in ("token", "logprob", "bytes")} for other in top]
    return known
