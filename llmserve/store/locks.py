"""Locks between threads and processes: `flock` on a descriptor, released by the kernel when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmserve.errors import Conflict, StartupFailed
from llmserve.store.files import storage_errors

_RETRY_SECONDS = 0.1


class Locks:
    """Named locks under one directory, which must exist.

    Their files stay behind, empty: removing one would let two holders lock two files of the same name. Order, so that
    nobody waits in a circle: a model's or a file's lock, then a blob's or that of the names, then nothing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def held(self, kind: str, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the lock of `key` (any text); blocks while another thread or process holds it.

        `waiting` is called a few times a second while it does, and ends the wait by raising.
        """
        import hashlib  # It loads OpenSSL, which most commands need not wait for.

        name = hashlib.sha256(key.encode()).hexdigest()[:40]
        with storage_errors("lock the store", StartupFailed):
            descriptor = open_lock(self._root / f"{kind}-{name}")
        try:
            if waiting is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            else:
                while not try_lock(descriptor):
                    waiting()
                    time.sleep(_RETRY_SECONDS)
            yield
        finally:
            os.close(descriptor)


def open_lock(path: Path) -> int:
    """A descriptor of the lock file at `path`, created (mode 0600) if need be; not locked yet."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`; blocks while another thread or process does. Raises `OSError`."""
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def take_lock(path: Path, taken: Conflict) -> int:
    """The descriptor of the lock file at `path`, locked; the caller closes it.

    Raises `taken` where another holds it, and `OSError`.
    """
    descriptor = open_lock(path)
    try:
        if not try_lock(descriptor):
            raise taken
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def try_lock(descriptor: int) -> bool:
    """Lock without waiting; False where another descriptor holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
