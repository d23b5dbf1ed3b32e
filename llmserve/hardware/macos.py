"""Running and reading macOS's `sysctl`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from llmserve.hardware.environment import native_environment
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.process import capture

# Subtrees and single values; a name this macOS does not know costs a line on stderr and nothing else.
_NAMES = (
    *("hw.memsize", "hw.physicalcpu", "hw.logicalcpu", "hw.optional"),
    *("machdep.cpu", "iogpu.wired_limit_mb"),
)


def read_sysctl(timeout: float) -> Mapping[str, str]:
    """The values `sysctl` prints, by name. Raises `ProbeFailed` when it prints none."""
    environment = native_environment(os.environ)
    captured = capture(("/usr/sbin/sysctl", *_NAMES), subject="sysctl", timeout=timeout, environment=environment)
    values = parse_sysctl(captured.stdout)
    if not values:
        raise ProbeFailed("sysctl printed nothing")
    return values


def parse_sysctl(text: str) -> dict[str, str]:
    """The `name: value` lines of `sysctl`."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return {name: value.strip() for name, separator, value in pairs if separator}
