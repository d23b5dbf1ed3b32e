"""How long requests keep a place, learnt as they end, and what that means for those who wait. Pure."""

from __future__ import annotations

# How much of the average the latest request makes up: the last twenty or so count.
_WEIGHT = 0.1


class ServiceTimes:
    """The time a request holds a place, as an average that forgets."""

    def __init__(self) -> None:
        self._average_seconds: float | None = None

    def note(self, seconds: float) -> None:
        """A request has ended that held its place for `seconds`."""
        if self._average_seconds is None:
            self._average_seconds = seconds
        else:
            self._average_seconds += _WEIGHT * (seconds - self._average_seconds)

    def wait_seconds(self, ahead: int, places: int) -> float | None:
        """How long until one of `places` is free for somebody behind `ahead` others, while all places are taken.

        By Little's law: places become free at `places / average` a second. None before the first request has ended.
        """
        if self._average_seconds is None:
            return None
        return (ahead + 1) * self._average_seconds / max(1, places)
