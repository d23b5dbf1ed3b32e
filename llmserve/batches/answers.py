"""The answer to one line of a batch: as it came, and as it is written into the output or the error file."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

from llmserve.batches.lines import InputLine
from llmserve.errors import InvalidRequest, LlmserveError, UnsupportedParameter, WorkerDied
from llmserve.openai.json import dump_json, parse_json

_MOST_TRIES = 3
_LONGEST_WAIT_SECONDS = 60.0
# What passes by itself: a full queue, a model that is loading or in its back-off, a server that stops.
_BUSY = frozenset({429, 503})
# What may have to do with the request itself, so that it is not tried for ever.
_FAILED = frozenset({500, 502, 504, 507})
# What chats call the tokens that were read and written; responses have other names.
_CHAT_NAMES = ("prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens: of the prompts, those of them from the cache, of the answers, those of them that are thoughts."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens

    def shown(self) -> dict[str, Any]:
        """In the shape of OpenAI's batch usage."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.total,
        }


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered to one request; `body` is JSON."""

    status: int
    request_id: str
    body: bytes
    retry_after: float | None = None

    @classmethod
    def of(cls, error: LlmserveError) -> Reply:
        """What a server would have said of `error`."""
        return cls(error.status, f"req-{secrets.token_hex(12)}", dump_json(error.body()), error.retry_after)

    def retry_seconds(self, tries: int) -> float | None:
        """When to ask again after the `tries`-th answer; None where this one stands."""
        if self.status in _BUSY:
            return min(self.retry_after or 1.0, _LONGEST_WAIT_SECONDS)
        if self.status in _FAILED and tries < _MOST_TRIES:
            return float(tries)
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """The line of the output file (`ok`) or the error file that answers the input line `number`; JSON on one line."""

    number: int
    ok: bool
    usage: Usage
    output: bytes


def answer_to(line: InputLine, reply: Reply) -> Answer:
    """The answer that `reply`, the last one, is to `line`. Takes about 20 ms per MB."""
    try:
        body = parse_json(reply.body)
    except InvalidRequest:
        body = None
    if not isinstance(body, dict):
        nonsense = WorkerDied("the answer makes no sense", code="worker_protocol_error")
        return answer_to(line, Reply.of(nonsense))
    response = {"status_code": reply.status, "request_id": reply.request_id, "body": body}
    ok = 200 <= reply.status < 300
    return Answer(line.number, ok, _usage(body) if ok else Usage(), _output(line.custom_id, response, None))


def unanswered(line: InputLine, code: str, message: str) -> Answer:
    """The line of the error file for a request that was never sent."""
    return Answer(line.number, False, Usage(), _output(line.custom_id, None, {"code": code, "message": message}))


def refusal(line: InputLine) -> Reply | None:
    """What to say to a request that cannot be part of a batch; None to all others."""
    body = parse_json(line.body)
    for field in ("stream", "background") if line.url == "/v1/responses" else ("stream",):
        if isinstance(body, dict) and body.get(field):
            error = UnsupportedParameter(f"`{field}` is not supported in a batch: its answers are whole", param=field)
            return Reply.of(error)
    return None


def _output(custom_id: str, response: Mapping[str, Any] | None, error: Mapping[str, Any] | None) -> bytes:
    id = f"batch_req_{secrets.token_hex(12)}"
    return dump_json({"id": id, "custom_id": custom_id, "response": response, "error": error})


def _usage(body: Mapping[str, Any]) -> Usage:
    """The usage that an answer of any of the endpoints reports; zeros where it does not."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return Usage()
    read, written = ("input_tokens", "output_tokens") if "input_tokens" in usage else _CHAT_NAMES
    return Usage(
        _count(usage, read),
        _count(usage.get(f"{read}_details"), "cached_tokens"),
        _count(usage, written),
        _count(usage.get(f"{written}_details"), "reasoning_tokens"),
    )


def _count(counts: object, name: str) -> int:
    value = counts.get(name) if isinstance(counts, Mapping) else None
    return value if isinstance(value, int) else 0
