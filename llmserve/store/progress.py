"""What a pull tells its caller while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

# "waiting" is for somebody else who pulls the same model.
Stage = Literal["resolving", "waiting", "downloading", "quantizing", "verifying", "publishing"]


@dataclass(frozen=True, slots=True)
class PullProgress:
    """`completed` of `total` bytes of a stage are done; `total` is None where the source does not say.

    `free` is stated once, before a download: the bytes that are free where it goes.
    """

    stage: Stage
    completed: int
    total: int | None
    free: int | None = None


# Called on the thread that pulls; an exception it raises stops the pull and reaches the caller of `pull`.
Report: TypeAlias = Callable[[PullProgress], None]


def ignore_progress(progress: PullProgress) -> None:
    """A `Report` for callers that do not want one."""
