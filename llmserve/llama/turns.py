"""Whose turn it is: llama.cpp computes a step with one set of adapters, so those of different ones take turns. Pure."""

from __future__ import annotations

from collections.abc import Collection

# A turn ends after so many steps, or once they took so long. With another adapter llama.cpp plans its graph anew, which
# takes some milliseconds: half of a small model's step, so several share the cost of one change.
MOST_STEPS = 8
MOST_SECONDS = 0.05


class Turns:
    """Adapters take turns in a circle, by their numbers; each has one before any has its second."""

    def __init__(self) -> None:
        self._adapter = 0
        self._steps = 0
        self._seconds = 0.0

    def choose(self, adapters: Collection[int]) -> int:
        """Whose turn it is of those with something to compute, at least one. The same until a step was taken."""
        if self._steps >= MOST_STEPS or self._seconds >= MOST_SECONDS or self._adapter not in adapters:
            later = [adapter for adapter in adapters if adapter > self._adapter]
            self._adapter = min(later or adapters)
            self._steps, self._seconds = 0, 0.0
        return self._adapter

    def took(self, seconds: float) -> None:
        """Whose turn it is was computed for so long."""
        self._steps += 1
        self._seconds += seconds
