"""RAM as this process may use it: what the kernel has, cut to what the control groups allow."""

from __future__ import annotations

import sys
from pathlib import Path

from llmserve.hardware.cgroup import MemoryLimit, memory_limit
from llmserve.hardware.failure import ProbeFailed
from llmserve.types import MemoryInfo


def read_memory(root: Path = Path("/"), *, system: str = sys.platform) -> MemoryInfo:
    """Read the machine's memory. Raises `ProbeFailed` where the system does not tell."""
    if system != "linux":
        import psutil  # type: ignore[import-untyped]  # shipped without types

        memory = psutil.virtual_memory()
        return MemoryInfo(memory.total, memory.available, None)
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ProbeFailed(f"/proc/meminfo cannot be read: {error.strerror}") from error
    total, available = parse_meminfo(text)
    return within(total, available, memory_limit(root))


def parse_meminfo(text: str) -> tuple[int | None, int | None]:
    """Total and available bytes in `/proc/meminfo`; None for a line that is not there (kernels before 3.14)."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        match value.split():
            case [number, "kB"] if number.isdigit():
                found[name] = int(number) * 1024
    return found.get("MemTotal"), found.get("MemAvailable")


def within(total: int | None, available: int | None, limit: MemoryLimit | None) -> MemoryInfo:
    """Cut the machine's memory to the limit. An unknown stays unknown unless the limit alone decides it."""
    if limit is None:
        return MemoryInfo(total, available, None)
    left = [amount for amount in (available, limit.available) if amount is not None]
    return MemoryInfo(
        total=limit.limit if total is None else min(total, limit.limit),
        available=min(left, default=None),
        limit=limit.limit,
    )
