"""How many threads a step uses while other processes want the same processors.

The threads of a step meet some hundred times per token, so one that has to wait for a processor holds up all the others
each time: beside one busy process, two threads on two processors were measured at a tenth of their speed where they
spin, and at half where they sleep. One thread fewer than there is room for beats both. A fleet of busy models settles
the same way, each giving the others what they use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OBSERVE_SECONDS = 0.25
# After a pause the first reading only starts a new interval: who was busy meanwhile says nothing about now.
_STALE_SECONDS = 1.0
# Others may use this much of a processor that a thread counts on. Between the two thresholds nothing changes, so that
# the number does not swing: the gateway and its clients use some of the processors too.
_LEAVE_ABOVE = 0.6
_RETURN_BELOW = 0.4
_SMOOTHING = 0.6


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """A reading: seconds on the clock, busy seconds of all usable processors together, and this process's own."""

    clock: float
    busy: float
    own: float


class ThreadGovernor:
    """Follows readings; pure but for `read`, which gives None where the system does not tell."""

    def __init__(self, planned: int, processors: int, read: Callable[[], CpuTimes | None]) -> None:
        self._planned = planned
        self._processors = processors
        self._read = read
        self._last = read()
        self._others = 0.0
        self.threads = planned

    def observe(self, now: float) -> int:
        """The threads to use from now on. Reads the system's figures if the last time is long enough ago."""
        if self._last is None or now - self._last.clock < OBSERVE_SECONDS:
            return self.threads
        times = self._read()
        if times is None or times.clock <= self._last.clock:
            return self.threads
        last, self._last = self._last, times
        seconds = times.clock - last.clock
        if seconds > _STALE_SECONDS:
            return self.threads
        others = max(0.0, (times.busy - last.busy - (times.own - last.own)) / seconds)
        self._others += _SMOOTHING * (others - self._others)
        self.threads = self._fitting()
        return self.threads

    def _fitting(self) -> int:
        room = self._processors - self._others
        threads = self.threads
        while threads > 1 and threads - room > _LEAVE_ABOVE:
            threads -= 1
        while threads < self._planned and threads + 1 - room < _RETURN_BELOW:
            threads += 1
        return threads


def governor_of_this_process(planned: int) -> ThreadGovernor:
    """The governor for `planned` threads on the processors this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity is not None else os.cpu_count() or planned
    return ThreadGovernor(planned, processors, read_cpu_times)


def read_cpu_times() -> CpuTimes | None:
    """From Linux's /proc/stat, for the processors this process may run on; None on other systems."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    except (OSError, AttributeError):
        return None
    ticks = 0
    for line in lines:
        name, _, fields = line.partition(" ")
        if name in usable:
            # user, nice, system, idle, iowait, irq, softirq, steal: all but the two that are idle, and the work of
            # low priority, which makes way by itself.
            numbers = [int(field) for field in fields.split()[:8]]
            ticks += sum(numbers) - numbers[1] - sum(numbers[3:5])
    return CpuTimes(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())
