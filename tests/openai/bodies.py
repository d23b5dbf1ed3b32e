"""Short ways to write request bodies and to see what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.errors import InvalidRequest
from llmserve.openai.parse import parse_chat, parse_completion
from llmserve.openai.requests import ChatRequest, CompletionRequest

HELLO: dict[str, Any] = {"role": "user", "content": "hello"}


def chat_body(**fields: Any) -> bytes:
    """A valid chat request with `fields` added to it or put in place."""
    return json.dumps({"model": "m", "messages": [HELLO], **fields}).encode()


def completion_body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "hello", **fields}).encode()


def chat(**fields: Any) -> ChatRequest:
    return parse_chat(chat_body(**fields)).request


def completion(**fields: Any) -> CompletionRequest:
    return parse_completion(completion_body(**fields)).request


def chat_refusal(**fields: Any) -> InvalidRequest:
    """The error that a chat request with `fields` gets."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    return caught.value


def completion_refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        completion(**fields)
    return caught.value


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    """A tool as a request states it, with `function`'s fields in place."""
    return {"type": "function", "function": {"name": name, **function}}
