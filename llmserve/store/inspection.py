"""The inspectors' front door: whatever format a model has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmserve.types import ModelInfo


def inspect_model(path: Path) -> ModelInfo:
    """What the model at `path` says of itself: a GGUF file, the first of a split one, or a directory of safetensors.

    Nothing is loaded or trusted. Raises `InvalidModel`.
    """
    if path.is_dir():
        from llmserve.store.safetensors import inspect_directory

        return inspect_directory(path)
    from llmserve.store.gguf import inspect_gguf

    return inspect_gguf(path)
