"""vLLM's errors in the gateway's terms.

Its body is `{"error": {"message", "type", "param", "code"}}` with the status as `code`
(`vllm/entrypoints/serve/exception_handling`); routes that a model lacks answer FastAPI's `{"detail": ...}`.
"""

from __future__ import annotations

import re
from typing import Any

from llmserve.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    LlmserveError,
    TooManyRequests,
    UnsupportedParameter,
    WorkerDied,
)

_MOST_CHARACTERS = 400
_CONTEXT = re.compile(
    r"maximum context length is (?P<context>\d+) tokens|longer than the maximum model length of (?P<length>\d+)"
)
_PROMPT = re.compile(r"prompt contains (?P<least>at least )?(?P<tokens>\d+) input tokens")
_UNSUPPORTED = re.compile(r"(?:not (?:currently )?|only )supported")
# What vLLM calls a request's prompt; here it has the request's own name.
_PROMPT_PARAMS = frozenset({"input_tokens", "input_text"})


def translated(status: int, body: Any, *, prompt_field: str) -> LlmserveError:
    """The error that an answer of this status and parsed body means.

    `prompt_field` is the field in which the request has its prompt.

    What went wrong inside vLLM is `WorkerDied`: its own words are not for a client.
    """
    message = _message(body)
    if status == 503:
        return TooManyRequests("the model's queue is full", retry_after=1.0)
    if status == 404:
        return InvalidRequest("this model does not answer at this route", param="model")
    if status >= 500 or not message:
        return WorkerDied("the worker failed to answer", code="worker_error")
    if _CONTEXT.search(message):
        return _overflow(message, prompt_field)
    param = body["error"].get("param") if isinstance(body.get("error"), dict) else None
    named = param if isinstance(param, str) else None
    if named in _PROMPT_PARAMS:
        named = prompt_field
    if _UNSUPPORTED.search(message):
        return UnsupportedParameter(_plain(message), param=named)
    return InvalidRequest(_plain(message), param=named)


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


def _overflow(message: str, prompt_field: str) -> ContextLengthExceeded:
    found = _CONTEXT.search(message)
    context = (found["context"] or found["length"]) if found else ""
    prompt = _PROMPT.search(message)
    has = f"the prompt has {prompt['least'] or ''}{prompt['tokens']}" if prompt else "the prompt has more"
    return ContextLengthExceeded(f"this model's context is {context} tokens and {has}", param=prompt_field)


def _plain(message: str) -> str:
    """The first line, bounded and printable; pydantic's and Python's class names in front are dropped."""
    line = message.strip().partition("\n")[0]
    line = re.sub(r" ?\(parameter=.*", "", line)
    line = re.sub(r"^(?:\d+ validation errors?[^:]*: ?|[A-Z]\w*(?:Error|Exception): ?|Value error, )+", "", line)
    text = "".join(character for character in line if character.isprintable())[:_MOST_CHARACTERS]
    return text or "the request is refused by vLLM"
