"""Working directories of running pulls, each gone with its pull or, after a crash, with the next one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmserve.store.files import storage_errors
from llmserve.store.locks import open_lock, try_lock

_OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Scratch:
    """A directory of one pull, on the store's file system.

    `lock` is the descriptor that says it is in use; a child process that writes here inherits it, so that the
    directory stays while the child lives, even if the pull was killed.
    """

    path: Path
    lock: int


@contextmanager
def scratch(root: Path) -> Iterator[Scratch]:
    """A new directory under `root`, which must exist; removed at the end. Removes those of dead processes first.

    Raises `InsufficientStorage` or `PullFailed` where it cannot be made.
    """
    import shutil

    with storage_errors("make a working directory"):
        area = _create(root)
    try:
        yield area
    finally:
        shutil.rmtree(area.path, ignore_errors=True)
        os.close(area.lock)


def _create(root: Path) -> Scratch:
    import tempfile

    gate = open_lock(root / ".gate")
    try:
        # Between a directory's creation and its lock nobody may take it for a dead one.
        fcntl.flock(gate, fcntl.LOCK_EX)
        _reclaim(root)
        path = Path(tempfile.mkdtemp(prefix="pull-", dir=root))
        lock = open_lock(path / _OWNER)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return Scratch(path, lock)
    finally:
        os.close(gate)


def reclaim(root: Path) -> None:
    """Remove the directories of dead processes under `root`, which must exist."""
    gate = open_lock(root / ".gate")
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        _reclaim(root)
    finally:
        os.close(gate)


def _reclaim(root: Path) -> None:
    import shutil  # It loads what reads compressed files, which most commands need not wait for.

    for path in root.glob("pull-*"):
        try:
            lock = open_lock(path / _OWNER)
        except OSError:
            continue
        try:
            if try_lock(lock):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
