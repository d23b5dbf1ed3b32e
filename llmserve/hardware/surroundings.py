"""Facts about the system around the hardware that decide whether a server will work. Each function reads one."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "*"})
_GPU_DEVICES = ("dev/kfd", "dev/dri/renderD*", "dev/nvidia[0-9]*")
_SPEED_BYTES = 128 << 20
_CONNECT_SECONDS = 1.0


def is_writable(directory: Path) -> bool:
    """Whether this user may write there or, where it does not exist, make it."""
    existing = next(place for place in (directory, *directory.parents) if place.exists())
    return os.access(existing, os.W_OK | os.X_OK)


def mode_of(directory: Path) -> int | None:
    """The permission bits; None for what does not exist."""
    try:
        return directory.stat().st_mode & 0o777
    except OSError:
        return None


def free_bytes(directory: Path) -> int | None:
    """What is free on the disk that holds the directory, or would."""
    existing = next(place for place in (directory, *directory.parents) if place.exists())
    try:
        return shutil.disk_usage(existing).free
    except OSError:
        return None


def listens(host: str, port: int) -> bool:
    """Whether anything accepts connections there. Blocks for a second at most."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False


def proxies(environ: Mapping[str, str]) -> tuple[tuple[str, ...], bool]:
    """The variables that name a proxy, and whether requests to this machine go past it."""
    named = tuple(name for name in environ if name.lower() in _PROXIES and environ[name])
    spared = {part.strip() for name in environ if name.lower() == "no_proxy" for part in environ[name].split(",")}
    return named, bool(spared & _LOOPBACK)


def open_files_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft


def forbidden_devices(root: Path = Path("/")) -> tuple[str, ...]:
    """Device files of GPUs that exist and that this user may not open."""
    found = [path for pattern in _GPU_DEVICES for path in sorted(root.glob(pattern))]
    return tuple(str(path) for path in found if not os.access(path, os.R_OK | os.W_OK))


def memory_speed() -> float:
    """Bytes that one core reads (and writes elsewhere) in a second: the best of three copies. Takes about 0.2 s."""
    source = bytearray(_SPEED_BYTES)
    # Touched beforehand: the first use of a page costs more than copying it.
    target = memoryview(bytearray(_SPEED_BYTES))
    target[:] = source
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        target[:] = source
        best = max(best, _SPEED_BYTES / (time.perf_counter() - started))
    return best


def peak_resident_bytes(pid: int, root: Path = Path("/")) -> int | None:
    """The most RAM that a process has held so far (`VmHWM`), None where the system does not tell."""
    return _kilobytes(root / f"proc/{pid}/status", "VmHWM").get("VmHWM")


def peak_family_bytes(pid: int, root: Path = Path("/")) -> int | None:
    """The most RAM that a process and its descendants have held so far, None where the system does not tell.

    What several of them map counts once. Their peaks are taken for simultaneous, so the sum may be too high.
    """
    import psutil  # type: ignore[import-untyped]  # shipped without types

    try:
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return None
    sizes = [_own_peak_bytes(member, root) for member in family]
    return sum(size for size in sizes if size is not None) if any(sizes) else None


def _own_peak_bytes(pid: int, root: Path) -> int | None:
    """The proportional set size of a process, and how much more than now it once held."""
    status = _kilobytes(root / f"proc/{pid}/status", "VmHWM", "VmRSS")
    shares = _kilobytes(root / f"proc/{pid}/smaps_rollup", "Pss")
    if len(status) < 2 or not shares:
        return None
    return shares["Pss"] + max(0, status["VmHWM"] - status["VmRSS"])


def _kilobytes(file: Path, *names: str) -> dict[str, int]:
    """The values in bytes of those lines of the kernel's that have these names, as far as they are there."""
    try:
        text = file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    found = {}
    for line in text.splitlines():
        match line.split():
            case [name, number, "kB"] if name.removesuffix(":") in names and number.isdigit():
                found[name.removesuffix(":")] = int(number) * 1024
    return found


def busy_processors(seconds: float = 0.5) -> float:
    """How many processors are busy while this process waits for so many seconds."""
    import psutil

    share: float = psutil.cpu_percent(interval=seconds) / 100
    return share * (psutil.cpu_count() or 1)
