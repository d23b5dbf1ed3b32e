"""Workers that outlived their gateway. None should: each watches the pipe that a gateway holds. One that hangs cannot.

A worker's process is noted beside its socket, in a directory that its gateway keeps locked. Who finds such a note in a
directory that nobody locks any more may end the process, if it is the very same: a number alone may be another's.
Where it is gone, what it started may have stayed, in the group that it led.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # shipped without types

_SUFFIX = ".pid"
# The field of /proc/PID/stat that tells when a process started, counted behind the name in parentheses.
_START_FIELD = 19
_OWN_STATUS = Path("/proc/self/stat")

logger = logging.getLogger(__name__)


def note_beside(socket: Path) -> Path:
    """Where the process that serves `socket` is noted."""
    return socket.with_suffix(_SUFFIX)


def note(socket: Path, pid: int) -> None:
    """Note that the process `pid` serves `socket`."""
    with suppress(psutil.Error, OSError):
        note_beside(socket).write_text(f"{pid} {started(pid)}\n", encoding="ascii")


def end_orphans(directory: Path) -> None:
    """Kill the workers that the notes in `directory` name, which belongs to a gateway that is gone."""
    for path in directory.glob(f"*{_SUFFIX}"):
        with suppress(OSError, ValueError, psutil.Error):
            number, started_at = path.read_text(encoding="ascii").split()
            pid, socket = int(number), path.with_suffix(".sock")
            if _has_ended(pid):
                _end_rest(pid, socket)
            else:
                _end(pid, started_at, socket)


def started(pid: int) -> str:
    """When the process `pid` started, as a word that is another's only by chance.

    On Linux in the kernel's own ticks: a time of the day would shift whenever the clock is set. Raises `OSError`,
    `IndexError` or `psutil.Error` where there is no such process.
    """
    if not _OWN_STATUS.exists():
        return str(psutil.Process(pid).create_time())
    _, _, fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")
    return fields.split()[_START_FIELD]


def _has_ended(pid: int) -> bool:
    """Also where nobody has reaped it."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _end_rest(group: int, socket: Path) -> None:
    """Kill what is left of the group of a worker that has ended. Its number is nobody else's as long as one is left."""
    if group > 1 and any(_is_of(process, group, socket) for process in psutil.process_iter()):
        logger.warning("ending what is left of a worker that outlived its server (process group %d)", group)
        os.killpg(group, signal.SIGKILL)


def _is_of(process: psutil.Process, group: int, socket: Path) -> bool:
    """Whether a process is in `group` and was started for `socket`, by its arguments or its environment."""
    with suppress(OSError, psutil.Error):
        if os.getpgid(process.pid) != group or process.uids().real != os.getuid():
            return False
        place = str(socket.parent)  # a part of it is random
        return any(f"{text}/".startswith(f"{place}/") for text in (*process.cmdline(), *process.environ().values()))
    return False


def _end(pid: int, started_at: str, socket: Path) -> None:
    process = psutil.Process(pid)
    is_same = (
        started(pid) == started_at
        and process.uids().real == os.getuid()
        # Part of the path is random, and nothing else is started with it.
        and any(str(socket) in argument for argument in process.cmdline())
    )
    if is_same:
        logger.warning("ending a worker that outlived its server (pid %d)", pid)
        # A worker leads a group, which its helpers are in.
        is_leader = os.getpgid(pid) == pid
        (os.killpg if is_leader else os.kill)(pid, signal.SIGKILL)
