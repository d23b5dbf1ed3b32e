"""The list of models as Anthropic has it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from llmserve.types import InstalledModel, ModelInfo


def model_object(model: InstalledModel, info: ModelInfo | None) -> dict[str, Any]:
    """One model; `info` is None for a file that cannot be read any more."""
    pulled_at = datetime.fromtimestamp(int(model.pulled_at), UTC)
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": pulled_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": info.context_length if info is not None else None,
        "max_tokens": info.context_length if info is not None else None,
    }


def model_page(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All models in one page."""
    ids = [model["id"] for model in models]
    return {
        "data": list(models),
        "has_more": False,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }
