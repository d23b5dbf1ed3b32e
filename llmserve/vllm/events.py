"""vLLM's streamed answers, event by event, in the shape that all engines here share.

Nearly every event is a few characters of text in bytes that repeat from event to event, so those are told by their
beginning and end and copied; only an event of another form is parsed. A model's text cannot imitate a form: inside a
JSON string its quotes are escaped.
"""

from __future__ import annotations

import json
from typing import Any

from llmserve.errors import LlmserveError, WorkerDied
from llmserve.openai import sse
from llmserve.openai.json import dump_ascii_json
from llmserve.vllm import errors
from llmserve.vllm.answers import chat_logprobs, copied, counts_of, finish_reason, stop_string, timings, usage_counts
from llmserve.vllm.served_model import ServedModel

_END = b"\n\n"
_CHOICES = b'"choices":['
# What stands behind the text of an event that says nothing else; fields without a value follow it.
_NOTHING_ELSE = b',"logprobs":null,"finish_reason":null'
_MOST_TAILS = 4
# The one field of a delta that has another name there, and the deltas that may be copied.
_TEXT_STARTS = (b'{"content":"', b'{"reasoning":"')
_HEAD_FIELDS = frozenset({"id", "object", "created", "model", "choices"})
_DELTA = b'"delta":'
_REASONING, _REASONING_CONTENT = b'"delta":{"reasoning":"', b'"delta":{"reasoning_content":"'


class EventTranslator:
    """Turns the bytes of one stream into the bytes to send on: whole events, however they arrive cut.

    `identity` is the answer's id. After an error event or the end mark nothing more comes.
    """

    def __init__(self, identity: str, model: ServedModel, *, chat: bool, prompt_field: str, copies: int = 1) -> None:
        """`copies`: how often each choice is told."""
        self._identity = identity
        self._model = model
        self._chat = chat
        self._prompt_field = prompt_field
        self._copies = copies
        self._rest = b""
        self._over = False
        # What stands before the choices of every event, there and here; not known before the first one.
        self._their_head: bytes | None = None
        self._our_head = b""
        # What may follow `_NOTHING_ELSE` in an event that is copied, as parsed events have shown.
        self._tails: set[bytes] = set()
        self._calling: set[int] = set()

    def feed(self, chunk: bytes) -> bytes:
        """The translation of the events that `chunk` completes."""
        if self._over:
            return b""
        data = self._rest + chunk if self._rest else chunk
        *whole, self._rest = data.split(_END)
        return b"".join([self._translated(event) for event in whole if not self._over])

    def _translated(self, event: bytes) -> bytes:
        if (text := self._copied_text(event)) is not None:
            return b"%s%s%s}]}\n\n" % (self._our_head, text, _NOTHING_ELSE)
        # Anything else is a comment that keeps the connection alive, and the gateway writes its own.
        return self._parsed(event) if event.startswith(b"data: ") else b""

    def _copied_text(self, event: bytes) -> bytes | None:
        """The beginning of an event's one choice, where that is text and nothing else; None for any other event."""
        head = self._their_head
        if head is None or not event.startswith(head):
            return None
        end = event.rfind(_NOTHING_ELSE)
        if end < 0 or event[end + len(_NOTHING_ELSE) :] not in self._tails:
            return None
        choice = event[len(head) : end]
        if not self._chat:
            return choice if choice.find(b',"text":"', 0, 40) > 0 else None
        start = choice.find(_DELTA, 0, 40)
        if start < 0 or not choice.startswith(_TEXT_STARTS, start + len(_DELTA)) or b'","' in choice:
            return None
        return choice.replace(_REASONING, _REASONING_CONTENT, 1)

    def _parsed(self, event: bytes) -> bytes:
        data = event[len(b"data: ") :]
        if data == b"[DONE]":
            self._over = True
            return sse.DONE
        try:
            body = json.loads(data)
            if not isinstance(body, dict) or "choices" not in body:
                raise self._failure(body)
            if self._their_head is None:
                self._learn_head(event, body)
            self._learn_tail(event, body)
            choices = copied([self._choice(choice) for choice in body["choices"]], self._copies)
            counted = "" if choices else self._counted(body)
        except LlmserveError as error:
            self._over = True
            return sse.error_event(error)
        except (KeyError, TypeError, AttributeError, ValueError):
            self._over = True
            return sse.error_event(WorkerDied("the worker's answer makes no sense", code="worker_protocol_error"))
        content = ",".join(map(dump_ascii_json, choices))
        return self._our_head + f"{content}]{counted}}}\n\n".encode()

    def _counted(self, body: dict[str, Any]) -> str:
        """The fields of the last event behind its choices, of which it has none."""
        if not body.get("usage"):
            return ""
        counts = usage_counts(body["usage"], self._model)
        told = counts if self._copies == 1 else counts_of(counts, self._copies)
        return f",{dump_ascii_json({'usage': told, **timings(body.get('metrics'), counts)})[1:-1]}"

    def _learn_head(self, event: bytes, body: dict[str, Any]) -> None:
        """Take from the first event what all of them share."""
        end = event.find(_CHOICES)
        # A head in which a name or an id holds the mark itself is not cut here: then every event is parsed.
        if end > 0 and event.count(_CHOICES) == 1 and self._copies == 1:
            self._their_head = event[: end + len(_CHOICES)]
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        head = {"id": self._identity, "object": kind, "created": body["created"], "model": self._model.name}
        self._our_head = f'data: {dump_ascii_json(head)[:-1]},"system_fingerprint":null,"choices":['.encode()

    def _learn_tail(self, event: bytes, body: dict[str, Any]) -> None:
        """Take from an event that says nothing but text what follows that in its like."""
        end = event.rfind(_NOTHING_ELSE)
        if end < 0 or len(body["choices"]) != 1 or len(self._tails) == _MOST_TAILS:
            return
        others = [value for key, value in body["choices"][0].items() if key not in {"index", "delta", "text"}]
        others += [value for key, value in body.items() if key not in _HEAD_FIELDS]
        if all(value is None for value in others):
            self._tails.add(event[end + len(_NOTHING_ELSE) :])

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        index = choice["index"]
        answer: dict[str, Any] = {"index": index}
        if self._chat:
            delta = choice["delta"]
            if delta.get("tool_calls"):
                self._calling.add(index)
            answer["delta"] = _delta(delta)
            answer["logprobs"] = chat_logprobs(choice, delta.get("content") or "")
        else:
            answer["text"] = choice["text"]
            answer["logprobs"] = choice.get("logprobs")
        ended = choice.get("finish_reason") is not None
        answer["finish_reason"] = finish_reason(choice, calls=index in self._calling) if ended else None
        return {**answer, **stop_string(choice)} if ended else answer

    def _failure(self, body: object) -> LlmserveError:
        """The error in the place of an event."""
        code = body["error"].get("code") if isinstance(body, dict) and isinstance(body.get("error"), dict) else None
        return errors.translated(code if isinstance(code, int) else 500, body, prompt_field=self._prompt_field)


def _delta(delta: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    if delta.get("role"):
        answer |= {"role": "assistant", "content": delta.get("content") or "", "refusal": None}
    elif delta.get("content"):
        answer["content"] = delta["content"]
    if reasoning := delta.get("reasoning") or delta.get("reasoning_content"):
        answer["reasoning_content"] = reasoning
    if calls := delta.get("tool_calls"):
        answer["tool_calls"] = [_call(call) for call in calls]
    return answer


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """The start of a call, or more of its arguments."""
    function = {key: value for key, value in call["function"].items() if value is not None}
    if call.get("id"):
        return {"index": call["index"], "id": call["id"], "type": "function", "function": {"arguments": "", **function}}
    return {"index": call["index"], "function": function}
