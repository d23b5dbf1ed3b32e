"""How an answer of the task `capitals_asked` is judged."""

from __future__ import annotations

from typing import Any


def contains(document: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Whether the right city is named."""
    return {"contains": float(document["choices"][document["answer"]] in answers[0])}
