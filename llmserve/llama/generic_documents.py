"""Documents for models whose chat template knows none: told in the system message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmserve.llama.conversation import with_system_text

_BEFORE = """\
These documents may hold what the answer needs. Rest it on them where they do, and do not make up what they do not say.
"""


def generic_documents_prompt(documents: Sequence[Mapping[str, Any]]) -> str:
    """System text that shows `documents` (`text`, perhaps `title`) to a model."""
    return "\n".join([_BEFORE, "<documents>", *map(_document, documents), "</documents>"])


def with_documents_prompt(
    messages: Sequence[Mapping[str, Any]], documents: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """`messages` (OpenAI's shape) with the documents in the system message, behind its own text if there is one."""
    return with_system_text(messages, generic_documents_prompt(documents))


def _document(document: Mapping[str, Any]) -> str:
    title = document.get("title")
    lines = [f"Title: {title}"] if title else []
    return "\n".join(["<document>", *lines, document["text"], "</document>"])
