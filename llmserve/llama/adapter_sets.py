"""The adapters (LoRA) of the worker's model: those that are always on, and those of which a request names one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmserve.openai.adapters import NO_ADAPTER, unknown_adapter

# Adapters that are applied together, each with its scale.
AdapterSet = Sequence[tuple[Path, float]]


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    name: str
    path: Path
    scale: float


@dataclass(frozen=True, slots=True)
class Adapters:
    """`default` is the name of the adapter for requests that name none; None: those get none of `named`."""

    always: tuple[tuple[Path, float], ...] = ()
    named: tuple[NamedAdapter, ...] = ()
    default: str | None = None

    @property
    def sets(self) -> list[AdapterSet]:
        """What is applied together, by the numbers that `number` gives: first what is always on, alone."""
        return [self.always, *((*self.always, (adapter.path, adapter.scale)) for adapter in self.named)]

    def number(self, model: str, name: str | None) -> int:
        """The number of the set for a request that names this adapter of `model`, or none. Raises `AdapterNotFound`."""
        name = self.default or NO_ADAPTER if name is None else name
        if name == NO_ADAPTER:
            return 0
        names = [adapter.name for adapter in self.named]
        if name not in names:
            raise unknown_adapter(model, name, names)
        return 1 + names.index(name)
