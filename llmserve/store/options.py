"""What a caller may ask of a pull."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmserve.choices import Engine, ModelFormat

if TYPE_CHECKING:
    from llmserve.store.budget import Budget
    from llmserve.types import HardwareInfo


@dataclass(frozen=True, slots=True)
class PullOptions:
    """None means that the program decides.

    `quantization`, `engine` and `format` narrow the choice of a variant. `offline` uses what is on the disk only.
    `bytes_per_second` limits the bandwidth. `machine` says what the model is to run on, and is only called where there
    is something to choose. `budget` is the ceiling for what the store keeps.
    """

    quantization: str | None = None
    engine: Engine | None = None
    format: ModelFormat | None = None
    offline: bool = False
    bytes_per_second: float | None = None
    machine: Callable[[], HardwareInfo] | None = None
    budget: Budget | None = None

    @property
    def narrows(self) -> bool:
        """Whether something was said about the variant."""
        return any((self.quantization, self.engine, self.format))
