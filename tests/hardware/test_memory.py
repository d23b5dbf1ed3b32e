"""RAM: the kernel's numbers, cut to the control groups' limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.hardware.cgroup import MemoryLimit
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.memory import parse_meminfo, read_memory, within
from llmserve.types import MemoryInfo
from tests.hardware.trees import captured, plant

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (captured("meminfo_16gib.txt"), (16113964 * 1024, 11240816 * 1024)),
        (captured("meminfo_linux_3_10.txt"), (1883564 * 1024, None)),
        ("", (None, None)),
        ("MemTotal: lots kB\nMemAvailable: 12\n", (None, None)),
    ],
)
def test_meminfo(text: str, expected: tuple[int | None, int | None]) -> None:
    assert parse_meminfo(text) == expected


@pytest.mark.parametrize(
    ("total", "available", "limit", "expected"),
    [
        (16 * GIB, 9 * GIB, None, MemoryInfo(16 * GIB, 9 * GIB, None)),
        (16 * GIB, 9 * GIB, MemoryLimit(2 * GIB, GIB), MemoryInfo(2 * GIB, GIB, 2 * GIB)),
        # A wide group on a full machine.
        (16 * GIB, GIB, MemoryLimit(8 * GIB, 7 * GIB), MemoryInfo(8 * GIB, GIB, 8 * GIB)),
        (16 * GIB, 9 * GIB, MemoryLimit(64 * GIB, 60 * GIB), MemoryInfo(16 * GIB, 9 * GIB, 64 * GIB)),
        (16 * GIB, 9 * GIB, MemoryLimit(2 * GIB, None), MemoryInfo(2 * GIB, 9 * GIB, 2 * GIB)),
        (None, None, MemoryLimit(2 * GIB, GIB), MemoryInfo(2 * GIB, GIB, 2 * GIB)),
        (None, None, None, MemoryInfo(None, None, None)),
    ],
)
def test_the_limit_cuts(
    total: int | None, available: int | None, limit: MemoryLimit | None, expected: MemoryInfo
) -> None:
    assert within(total, available, limit) == expected


def test_a_container_sees_its_own_limit(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": captured("meminfo_16gib.txt"),
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": captured("mountinfo_v2_container.txt"),
        "sys/fs/cgroup/memory.max": str(2 * GIB),
        "sys/fs/cgroup/memory.current": str(GIB),
        "sys/fs/cgroup/memory.stat": f"inactive_file {GIB // 2}\n",
    }
    root = plant(tmp_path, files)
    assert read_memory(root, system="linux") == MemoryInfo(2 * GIB, 3 * GIB // 2, 2 * GIB)


def test_a_machine_that_does_not_tell_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ProbeFailed, match="/proc/meminfo cannot be read: No such file"):
        read_memory(tmp_path, system="linux")


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_this_machine(system: str) -> None:
    memory = read_memory(system=system)
    assert memory.total is not None
    assert memory.available is not None
    assert 0 < memory.available <= memory.total
