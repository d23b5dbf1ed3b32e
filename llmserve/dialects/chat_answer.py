"""A worker's whole answer, read once for every dialect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmserve.dialects.chat_events import Counts, Finish, counts, finish
from llmserve.openai.responses import ToolInvocation

_NOTHING_COUNTED = Counts(0, 0, 0, 0, {})


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The first choice of an answer, of a chat or of a text completion; `logprobs` are OpenAI's entries."""

    text: str
    reasoning: str
    calls: tuple[ToolInvocation, ...]
    finish: Finish
    counts: Counts
    logprobs: tuple[Mapping[str, Any], ...] = ()


def read_answer(body: bytes) -> ChatAnswer:
    """The answer in `body`, which a worker wrote. Raises `ValueError` or `LookupError` for what is none."""
    answer = json.loads(body)
    choice = answer["choices"][0]
    message = choice.get("message") or {}
    calls = tuple(
        ToolInvocation(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    )
    return ChatAnswer(
        text=message.get("content") or choice.get("text") or "",
        reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
        calls=calls,
        finish=finish(choice) or Finish("stop"),
        counts=counts(answer) or _NOTHING_COUNTED,
        logprobs=tuple((choice.get("logprobs") or {}).get("content") or ()) if message else (),
    )


def read_count(body: bytes) -> int:
    """How many tokens a prompt has by the `/tokenize` answer in `body`. Raises as `read_answer` does."""
    return int(json.loads(body)["count"])
