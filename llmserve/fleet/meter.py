"""Reads a worker's counters while it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmserve.fleet.record import Instance

POLL_SECONDS = 2.0


async def read_counters(instance: Instance, clock: Callable[[], float]) -> None:
    """Note the counters in `instance.speed` every two seconds of use, and once after it; runs until cancelled."""
    seen: float | None = None
    while True:
        await asyncio.sleep(POLL_SECONDS)
        if not instance.leases and seen == instance.last_used:
            continue
        last_used = instance.last_used
        counts = await instance.worker.counters()
        if counts is not None:
            seen = last_used
            instance.speed.note(clock(), counts)
