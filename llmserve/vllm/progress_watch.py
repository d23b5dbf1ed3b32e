"""Whether a vLLM server that has requests still computes. Its `/health` says 200 also when its engine hangs."""

from __future__ import annotations

from dataclasses import dataclass

# Without a step and without using a processor for so long, with requests open, it hangs.
IDLE_SECONDS = 10.0
# A step may take long while something computes: kernels are compiled when they are first needed, and a processor
# needs a minute for a thousand tokens of a large model's prompt.
BUSY_GPU_SECONDS = 60.0
BUSY_CPU_SECONDS = 600.0
# Polling and bookkeeping use a little of a processor also where nothing is computed.
_BUSY_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Observation:
    """A look at a server at the time `at`: open requests, its steps so far (None: it did not say), and the processor
    seconds of all its processes so far."""

    at: float
    open_requests: int
    steps: float | None
    processor_seconds: float


class ProgressWatch:
    """Judges observations, in the order of their times."""

    def __init__(self, *, busy_seconds: float) -> None:
        """`busy_seconds`: how long a step may take while a processor is used."""
        self._busy_seconds = busy_seconds
        self._since: Observation | None = None
        self._last: Observation | None = None

    def stalled(self, now: Observation) -> float | None:
        """For how many seconds there has been no step that should have been; None while all is well."""
        since, last = self._since, self._last
        self._last = now
        moved = since is None or (now.steps is not None and now.steps != since.steps)
        if now.open_requests == 0 or moved or last is None or last.open_requests == 0:
            self._since = now
            return None
        elapsed = now.at - since.at if since is not None else 0.0
        used = now.processor_seconds - since.processor_seconds if since is not None else 0.0
        limit = self._busy_seconds if used > elapsed * _BUSY_SHARE else IDLE_SECONDS
        return elapsed if elapsed >= limit else None
