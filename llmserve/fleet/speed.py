"""How fast a worker computes tokens, from its counters as they are read now and then. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

# The speed shown is that of the readings of so many seconds.
_RECENT_SECONDS = 10.0


class Speed:
    """Readings of one worker's counters. `counts` are the latest ones; empty before the first."""

    def __init__(self, counter: str) -> None:
        """`counter`: of the tokens whose speed is meant."""
        self.counts: Mapping[str, float] = {}
        self._counter = counter
        self._read: deque[tuple[float, float]] = deque()

    def note(self, now: float, counts: Mapping[str, float]) -> None:
        """The worker's counters at the time `now`, by their names in `GET /stats`."""
        self.counts = counts
        self._read.append((now, counts.get(self._counter, 0.0)))
        while now - self._read[0][0] > _RECENT_SECONDS:
            self._read.popleft()

    def tokens_per_second(self, now: float) -> float | None:
        """The average over the last seconds; None where that is not known, or the last reading is of some time ago."""
        if not self._read or now - self._read[-1][0] > _RECENT_SECONDS / 2:
            return None
        (first_at, first), (last_at, last) = self._read[0], self._read[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else None
