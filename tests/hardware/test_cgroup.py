"""Limits of control groups: both versions, nested, in a container and on a host."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.hardware.cgroup import MemoryLimit, cpu_quota, memory_limit, parse_memberships, parse_mounts
from tests.hardware.trees import captured, plant

MIB = 2**20
SLICE = "sys/fs/cgroup/user.slice"
SERVICE = f"{SLICE}/llmserve.service"


def host_v2(root: Path, files: dict[str, str]) -> Path:
    """A host with cgroup v2 where this process is in a service below a slice."""
    base = {
        "proc/self/cgroup": "0::/user.slice/llmserve.service\n",
        "proc/self/mountinfo": captured("mountinfo_v2_host.txt"),
    }
    return plant(root, base | files)


def container_v1(root: Path, files: dict[str, str]) -> Path:
    """A container with cgroup v1 that shows the host's path in /proc/self/cgroup."""
    base = {
        "proc/self/cgroup": captured("cgroup_v1_container.txt"),
        "proc/self/mountinfo": captured("mountinfo_v1_container.txt"),
    }
    return plant(root, base | files)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({f"{SERVICE}/cpu.max": "max 100000\n"}, None),
        ({f"{SERVICE}/cpu.max": "150000 100000\n"}, 1.5),
        ({f"{SERVICE}/cpu.max": "20000 10000\n"}, 2.0),
        ({f"{SERVICE}/cpu.max": "400000 100000\n", f"{SLICE}/cpu.max": "50000 100000\n"}, 0.5),
        ({f"{SERVICE}/cpu.max": "100000 100000\n", f"{SLICE}/cpu.max": "max 100000\n"}, 1.0),
        ({"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),
        ({f"{SERVICE}/cpu.max": "nonsense\n"}, None),
        ({f"{SERVICE}/cpu.max": ""}, None),
        ({f"{SERVICE}/cpu.max": "100000 0\n"}, None),
    ],
)
def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(host_v2(tmp_path, files)) == quota


@pytest.mark.parametrize(
    ("quota_us", "period_us", "quota"),
    [("-1", "100000", None), ("200000", "100000", 2.0), ("50000", "100000", 0.5), ("", "", None)],
)
def test_a_v1_quota_is_read_where_its_controller_is_mounted(
    tmp_path: Path, quota_us: str, period_us: str, quota: float | None
) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct"
    files = {f"{folder}/cpu.cfs_quota_us": quota_us, f"{folder}/cpu.cfs_period_us": period_us}
    assert cpu_quota(container_v1(tmp_path, files)) == quota


def level(folder: str, limit: int | str, usage: int, inactive: int, high: str = "max") -> dict[str, str]:
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.high": f"{high}\n",
        f"{folder}/memory.current": f"{usage}\n",
        f"{folder}/memory.stat": f"anon 1\nfile 2\ninactive_file {inactive}\nactive_file 7\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (level(SERVICE, "max", 10 * MIB, 0), None),
        (level(SERVICE, 100 * MIB, 30 * MIB, 10 * MIB), MemoryLimit(100 * MIB, 80 * MIB)),
        (level(SERVICE, 100 * MIB, 200 * MIB, 0), MemoryLimit(100 * MIB, 0)),
        (level(SERVICE, 100 * MIB, 10 * MIB, 50 * MIB), MemoryLimit(100 * MIB, 100 * MIB)),
        (level(SERVICE, 100 * MIB, 0, 0, high=str(60 * MIB)), MemoryLimit(60 * MIB, 60 * MIB)),
        # The outer group is larger, but a neighbour has filled it.
        (
            level(SERVICE, 100 * MIB, 10 * MIB, 0) | level(SLICE, 400 * MIB, 380 * MIB, 0),
            MemoryLimit(100 * MIB, 20 * MIB),
        ),
        (level(SERVICE, "max", 10 * MIB, 0) | level(SLICE, 50 * MIB, 20 * MIB, 0), MemoryLimit(50 * MIB, 30 * MIB)),
        ({f"{SERVICE}/memory.max": str(100 * MIB)}, MemoryLimit(100 * MIB, None)),
    ],
)
def test_the_tightest_memory_limit_counts(tmp_path: Path, files: dict[str, str], expected: MemoryLimit | None) -> None:
    assert memory_limit(host_v2(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (9223372036854771712, None),
        (9223372036854710272, None),
        (2**31, MemoryLimit(2**31, 2**31 - 300 * MIB)),
    ],
)
def test_a_v1_memory_limit_is_read(tmp_path: Path, limit: int, expected: MemoryLimit | None) -> None:
    folder = "sys/fs/cgroup/memory"
    files = {
        f"{folder}/memory.limit_in_bytes": str(limit),
        f"{folder}/memory.usage_in_bytes": str(500 * MIB),
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {200 * MIB}\n",
    }
    assert memory_limit(container_v1(tmp_path, files)) == expected


def test_a_container_with_its_own_namespace_is_read_at_the_mount(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": captured("mountinfo_v2_container.txt"),
        "sys/fs/cgroup/cpu.max": "100000 100000\n",
        **level("sys/fs/cgroup", 2**31, 2**30, 0),
    }
    root = plant(tmp_path, files)
    assert cpu_quota(root) == 1.0
    assert memory_limit(root) == MemoryLimit(2**31, 2**30)


@pytest.mark.parametrize("group", ["/../sibling", "/kubepods/pod1/abc", "/"])
def test_a_path_outside_the_mount_falls_back_to_the_mount(tmp_path: Path, group: str) -> None:
    files = {
        "proc/self/cgroup": f"0::{group}\n",
        "proc/self/mountinfo": "1 2 0:30 /other /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
        "sys/fs/cgroup/cpu.max": "200000 100000\n",
        "sys/fs/sibling/cpu.max": "100000 100000\n",
    }
    assert cpu_quota(plant(tmp_path, files)) == 2.0


def test_a_hybrid_machine_is_read_in_v1(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/inner/most\n1:cpu:/\n0::/\n",
        "proc/self/mountinfo": captured("mountinfo_hybrid.txt"),
        "sys/fs/cgroup/memory/inner/memory.limit_in_bytes": str(64 * MIB),
        "sys/fs/cgroup/memory/inner/memory.usage_in_bytes": str(16 * MIB),
        "sys/fs/cgroup/memory/inner/most/memory.limit_in_bytes": str(128 * MIB),
        "sys/fs/cgroup/memory/inner/most/memory.usage_in_bytes": str(8 * MIB),
    }
    root = plant(tmp_path, files)
    assert memory_limit(root) == MemoryLimit(64 * MIB, 48 * MIB)
    assert cpu_quota(root) is None


def test_a_machine_without_cgroups_has_no_limits(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) is None


def test_mount_points_are_unescaped() -> None:
    (mount,) = parse_mounts("1 2 0:30 / /mnt/my\\040groups rw - cgroup2 cgroup rw\n")
    assert mount.mount_point == PurePosixPath("/mnt/my groups")


@given(st.text(), st.text(" /:-0123456789cgroup2,\\\n"))
def test_no_text_breaks_the_parsers(text: str, likely: str) -> None:
    for sample in (text, likely):
        assert all(isinstance(group, PurePosixPath) for group in parse_memberships(sample).values())
        assert all(mount.version in {1, 2} for mount in parse_mounts(sample))
