"""Limits of control groups, v1 and v2, read from this process's own group up to the top of what is mounted.

A limit anywhere on that path binds, so every function here takes the smallest. In a container the top is the
container's own group. Formats: `man 7 cgroups`, `man 5 proc_pid_mountinfo`, the kernel's cgroup-v2 document.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmserve.hardware.files import read_text, whole_number

# v1 spells "no limit" as the largest number of whole pages, which depends on the page size.
_V1_UNLIMITED = 2**62


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One cgroup file system: where it is mounted, which group is at that place, its v1 controllers (v2: none)."""

    version: int
    mount_point: PurePosixPath
    group: PurePosixPath
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The tightest limit in bytes, and what the tightest level leaves: its limit less its working set."""

    limit: int
    available: int | None


def parse_memberships(text: str) -> dict[str, PurePosixPath]:
    """The groups in `/proc/self/cgroup` by v1 controller name; the key of the v2 group is the empty string."""
    groups: dict[str, PurePosixPath] = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            groups |= {controller: PurePosixPath(path) for controller in controllers.split(",")}
    return groups


def parse_mounts(text: str) -> tuple[CgroupMount, ...]:
    """The cgroup file systems in `/proc/self/mountinfo`."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(kind) < 3 or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        group, mount_point = PurePosixPath(_unescape(fields[3])), PurePosixPath(_unescape(fields[4]))
        version = 2 if kind[0] == "cgroup2" else 1
        controllers = frozenset(kind[2].split(",")) if version == 1 else frozenset()
        mounts.append(CgroupMount(version, mount_point, group, controllers))
    return tuple(mounts)


def _unescape(field: str) -> str:
    """Undo the octal escapes of mountinfo (a space is `\\040`)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The CPUs' worth of time this process may use, or None where nothing limits it."""
    quotas = []
    for version, directory in _levels("cpu", root):
        if version == 2:
            quota, _, period = read_text(directory / "cpu.max").partition(" ")
        else:
            quota, period = read_text(directory / "cpu.cfs_quota_us"), read_text(directory / "cpu.cfs_period_us")
        limit, window = whole_number(quota), whole_number(period)
        if limit and window:
            quotas.append(limit / window)
    return min(quotas, default=None)


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """The memory this process's groups may use, or None where nothing limits it.

    The working set is usage less the inactive file cache, which the kernel drops before it refuses anything.
    v2's `memory.high` counts as a limit as well: above it a group is throttled to a crawl.
    """
    levels = [level for level in (_memory_level(*place) for place in _levels("memory", root)) if level]
    if not levels:
        return None
    left = [level.available for level in levels if level.available is not None]
    return MemoryLimit(min(level.limit for level in levels), min(left, default=None))


def _memory_level(version: int, directory: Path) -> MemoryLimit | None:
    names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    usage_name = "memory.current" if version == 2 else "memory.usage_in_bytes"
    reclaimable_name = "inactive_file" if version == 2 else "total_inactive_file"
    numbers = [whole_number(read_text(directory / name)) for name in names]
    limits = [number for number in numbers if number is not None and number < _V1_UNLIMITED]
    if not limits:
        return None
    usage = whole_number(read_text(directory / usage_name))
    if usage is None:
        return MemoryLimit(min(limits), None)
    statistics = (line.partition(" ") for line in read_text(directory / "memory.stat").splitlines())
    reclaimable = next((whole_number(value) for name, _, value in statistics if name == reclaimable_name), None)
    working_set = max(0, usage - (reclaimable or 0))
    return MemoryLimit(min(limits), max(0, min(limits) - working_set))


def _levels(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """The version and directory of each group that limits `controller`, from this process's own one upwards."""
    groups = parse_memberships(read_text(root / "proc/self/cgroup"))
    mounts = parse_mounts(read_text(root / "proc/self/mountinfo"))
    for mount in mounts:
        # A controller lives in one hierarchy: in v1's if it is mounted there, else in v2's.
        key = controller if mount.version == 1 else ""
        if key not in groups or (mount.version == 1 and controller not in mount.controllers):
            continue
        top = root / mount.mount_point.relative_to("/")
        inner = _inside(groups[key], mount.group)
        yield from ((mount.version, top / part) for part in (inner, *inner.parents))


def _inside(group: PurePosixPath, mounted: PurePosixPath) -> PurePosixPath:
    """`group` relative to the group that is mounted; the mounted one where the path does not lie below it.

    It does not when a container shows the host's path, or a namespace shows a path above its own root.
    """
    below = PurePosixPath(os.path.normpath(group))
    if ".." not in group.parts and below.is_relative_to(mounted):
        return below.relative_to(mounted)
    return PurePosixPath()
