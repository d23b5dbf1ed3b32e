"""Small things that tests of several packages share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_POLL = threading.Event()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return once `condition` holds; fail after `seconds`. Blocks: not for coroutines."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not happen within {seconds:g} s")
        _POLL.wait(0.01)
