"""Small things that tests of several packages share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil

_POLL = threading.Event()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return once `condition` holds; fail after `seconds`. Blocks: not for coroutines."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not happen within {seconds:g} s")
        _POLL.wait(0.01)


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; one that only waits to be reaped has. It may end, or be reaped, meanwhile."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
