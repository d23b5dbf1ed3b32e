"""Whether one way of running one model is tried again after it failed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_BACKOFF_SECONDS = 5.0
LONGEST_BACKOFF_SECONDS = 300.0
# What fails once is tried again at once: the cause may have been another program, or a single request.
FAILED_LOADS_BEFORE_BACKOFF = 2
CRASHES_BEFORE_BACKOFF = 3


@dataclass(slots=True)
class Breaker:
    """Counts failures in a row, of loads and of workers that died; a request served to its end begins a new row.

    From the second failed load on, or the third crash, nothing is tried for a time that doubles from five seconds to
    five minutes. `last_error` says what went wrong.
    """

    failures: int = 0
    open_until: float = 0.0
    last_error: str | None = None

    def load_failed(self, now: float, error: str) -> None:
        self._failed(now, error, FAILED_LOADS_BEFORE_BACKOFF)

    def crashed(self, now: float, error: str) -> None:
        self._failed(now, error, CRASHES_BEFORE_BACKOFF)

    def succeeded(self) -> None:
        self.failures = 0

    def reset(self) -> None:
        """Forget everything, because somebody has mended the cause."""
        self.failures, self.open_until = 0, 0.0

    def remaining_seconds(self, now: float) -> float:
        """How long nothing is tried; 0 if it may be tried now."""
        return max(0.0, self.open_until - now)

    def _failed(self, now: float, error: str, allowed: int) -> None:
        self.failures += 1
        self.last_error = error
        doublings = self.failures - allowed
        if doublings >= 0:
            self.open_until = now + min(FIRST_BACKOFF_SECONDS * 2.0 ** min(doublings, 16), LONGEST_BACKOFF_SECONDS)
