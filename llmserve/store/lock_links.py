"""Which lock files name models of this store, so that those are not removed to make room.

lockfiles/<hash of its path> -> /the/lock/file        of every lock file that was written or used here
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from llmserve.store.files import private_directory, storage_errors
from llmserve.store.lockfile import read_lock

_FOLDER = "lockfiles"


def remember_lock(home: Path, path: Path) -> None:
    """Have the models that the lock file at `path` names kept for as long as it exists."""
    target = path.absolute()
    with storage_errors("remember the lock file"):
        folder = private_directory(home / _FOLDER)
        with suppress(FileExistsError):
            (folder / hashlib.sha256(str(target).encode()).hexdigest()[:40]).symlink_to(target)


def names_locked(home: Path) -> frozenset[str]:
    """The names in all lock files that still exist; those that are gone are forgotten.

    Raises `SettingsError` for one that cannot be read: what it names is not known.
    """
    names: set[str] = set()
    for link in sorted((home / _FOLDER).glob("*")):
        if link.exists():
            names.update(model.name for model in read_lock(link.readlink()).models)
        else:
            link.unlink(missing_ok=True)
    return frozenset(names)
