"""Errors as Ollama has them: a status, and one sentence."""

from __future__ import annotations

from llmserve.dialects.translation import ErrorFields
from llmserve.openai.json import dump_json


def error_body(error: ErrorFields) -> bytes:
    return dump_json({"error": str(error.get("message") or "the request failed")})
