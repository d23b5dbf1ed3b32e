"""Where workers listen: a private directory that lives as long as its gateway."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmserve.errors import StartupFailed
from llmserve.fleet.orphans import end_orphans

# `sun_path` holds 104 bytes on macOS and 108 on Linux, the final zero included.
_MAX_PATH_BYTES = 103
_LONGEST_NAME = "/4194304-abcdefgh/999999.sock"


class SocketDirectory:
    """A directory of mode 0700 for this process's sockets; made by the first `new_path()`, removed by `close()`.

    Its owner holds an `flock` on it. What a killed gateway left behind is unlocked, and goes when the next one starts.
    All methods block on the disk and may be called from any thread.
    """

    def __init__(self, base: Path) -> None:
        """`base` holds the directories of all gateways of this user and nothing else."""
        self._base = base
        self._lock = threading.Lock()
        self._held: tuple[Path, int] | None = None
        self._closed = False
        self._count = 0

    def new_path(self) -> Path:
        """A path for a new socket, short enough to bind and never given out before. Raises `StartupFailed`."""
        with self._lock:
            if self._closed:
                raise StartupFailed("the workers' sockets are closed")
            try:
                directory, _ = self._held = self._held or _make(self._usable_base())
            except OSError as error:
                raise StartupFailed(f"cannot make a directory for the workers' sockets: {error.strerror}") from error
            self._count += 1
            return directory / f"{self._count}.sock"

    def close(self) -> None:
        """Remove the directory and all in it; no path is given out afterwards. May be called twice."""
        with self._lock:
            self._closed = True
            if self._held is not None:
                directory, descriptor = self._held
                self._held = None
                shutil.rmtree(directory, ignore_errors=True)
                os.close(descriptor)

    def _usable_base(self) -> Path:
        """The wanted base, or one in the temporary directory where its path is too long for a socket."""
        base = self._base
        if len(os.fsencode(base)) + len(_LONGEST_NAME) > _MAX_PATH_BYTES:
            base = Path(tempfile.gettempdir()) / f"llmserve-{os.getuid()}"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = base.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise StartupFailed(
                "the directory for the workers' sockets is not private to this user",
                hint="set XDG_RUNTIME_DIR to a directory that is",
            )
        return base


def _make(base: Path) -> tuple[Path, int]:
    """A new directory, and the descriptor that locks it."""
    # The base is locked too, so that no other gateway sweeps away a directory that is made and not yet locked.
    with _locked(base):
        _sweep(base)
        directory = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return directory, descriptor


def _sweep(base: Path) -> None:
    """Remove the directories of gateways that are gone, those whose lock is free, and end what still serves there."""
    for entry in os.scandir(base):
        if not entry.is_dir(follow_symlinks=False):
            continue
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            end_orphans(Path(entry.path))
            shutil.rmtree(entry.path, ignore_errors=True)
        finally:
            os.close(descriptor)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
