"""How a probe says that it found nothing."""

from __future__ import annotations


class ProbeFailed(Exception):
    """A probe came back with nothing; `str(error)` completes the sentence "none, because ...".

    Not part of the tree in `llmserve.errors`: it never reaches a user, it becomes a `ProbeNote`.
    `signal` is the one that killed the probe, if one did.
    """

    def __init__(self, reason: str, *, signal: int | None = None) -> None:
        super().__init__(reason)
        self.signal = signal
