"""Saved prefixes on the disk: those of one model and one build of the engine, within a budget that all models share.

    <home>/prefixes/<digest of the model>/<key of the state's layout>/<digest of the tokens>.prefix

The files hold what users wrote, so directories have mode 0700 and files 0600. A file appears complete or not at all,
and what was used last is what is kept longest. Several workers may use one directory: a file that another one removed
is simply no longer there.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from llmserve.llama.prefix_file import (
    DamagedFile,
    Interrupted,
    file_bytes,
    read_head,
    read_state,
    write_prefix,
)
from llmserve.llama.prefix_tree import PrefixTree

_SUFFIX = ".prefix"
_UNFINISHED = ".unfinished"
# Left free on the disk, whatever the budget.
_LEFT_FREE_BYTES = 1 << 30

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Archived:
    """The best file for some tokens: `matched` of them are the first of its `length` tokens."""

    entry: int
    matched: int
    length: int


class PrefixArchive:
    """Safe for several threads; files are read and written outside its lock.

    `directory` is the model's, in one that the archives of all models are in. `layout` says everything that decides how
    a state is laid out. `cuttable` is False where only whole prefixes can be gone on from.
    """

    def __init__(self, directory: Path, layout: str, budget_bytes: int, *, cuttable: bool = True) -> None:
        self._root = directory.parent
        self._key = hashlib.sha256(layout.encode()).digest()
        self._folder = directory / self._key.hex()[:16]
        self._budget_bytes = budget_bytes
        self._cuttable = cuttable
        self._lock = threading.Lock()
        self._tree = PrefixTree()
        self._paths: dict[int, Path] = {}
        self._next_entry = 0

    def open(self, longest: int) -> None:
        """Read what is there of prefixes of at most `longest` tokens; remove what is damaged, or was never finished.

        Raises `OSError` where the directory cannot be made or others could have written to it.
        """
        self._make_folder()
        _remove_unfinished(self._root)
        self._make_room(0, since=time.time())
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            head = _read(path, lambda file: read_head(file, self._key))
            if head is not None and len(head.tokens) <= longest:
                self._add(head.tokens, path)

    @property
    def count(self) -> int:
        """How many prefixes are there."""
        return len(self._paths)

    def match(self, tokens: list[int]) -> Archived | None:
        """The file with the longest prefix of `tokens`, except their last, if there is any."""
        with self._lock:
            match = self._tree.match(tokens, len(tokens) - 1, whole=not self._cuttable)
            if match.length == 0:
                return None
            entry = self._tree.holder(match)
            return Archived(entry, match.length, self._tree.length(entry))

    def use(self, tokens: list[int]) -> int:
        """How many of `tokens` a file has; that file counts as used now."""
        with self._lock:
            match = self._tree.match(tokens, len(tokens), whole=not self._cuttable)
            path = self._paths[self._tree.holder(match)] if match.length else None
        if path is not None:
            _touch(path)
        return match.length

    def load(self, entry: int) -> tuple[list[int], npt.NDArray[np.uint8]] | None:
        """The tokens and the state of a file; None, and the file is gone, where it cannot be used. Slow."""
        with self._lock:
            path = self._paths.get(entry)
            tokens = self._tree.tokens(entry) if path is not None else []
        if path is None:
            return None

        def read(file: BufferedReader) -> npt.NDArray[np.uint8]:
            head = read_head(file, self._key)
            if head.tokens != tokens:
                raise DamagedFile("it was replaced by another one")
            return read_state(file, head)

        state = _read(path, read)
        if state is None:
            self._drop(entry)
            return None
        _touch(path)
        return tokens, state

    def store(
        self, tokens: list[int], state: npt.NDArray[np.uint8], since: float, may_go_on: Callable[[], bool]
    ) -> bool:
        """Write a file, unless it would have to displace what was used after `since` (seconds since 1970). Slow.

        Files of shorter prefixes of the same tokens are removed, as this one serves for them. False where nothing was
        written: no room, no time (`may_go_on` said no), or the disk failed, which is logged.
        """
        path = self._folder / f"{_name_of(tokens)}{_SUFFIX}"
        try:
            self._make_folder()
            if not self._make_room(file_bytes(len(tokens), state.size), since):
                return False
            self._write(path, tokens, state, may_go_on)
        except Interrupted:
            return False
        except OSError as error:
            _log.warning("a prefix cannot be kept on the disk: %s", error)
            return False
        superseded = self._prefixes_of(tokens) if self._cuttable else []
        self._add(tokens, path)
        for entry in superseded:
            self._drop(entry)
        self._make_room(0, since)  # again: others may have written meanwhile
        return True

    # --- files ---

    def _make_folder(self) -> None:
        for folder in (self._root, self._folder.parent, self._folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(f"others could have written to {folder}")

    def _write(
        self, path: Path, tokens: list[int], state: npt.NDArray[np.uint8], may_go_on: Callable[[], bool]
    ) -> None:
        descriptor, name = tempfile.mkstemp(suffix=_UNFINISHED, dir=self._folder)
        unfinished = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                # While it is locked, nobody takes it for what a dead process left.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                write_prefix(file, self._key, tokens, state, may_go_on)
                _touch(unfinished)
                unfinished.rename(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _make_room(self, needed_bytes: int, since: float) -> bool:
        """Remove what was used least recently, of all models, until `needed_bytes` fit; never what was used `since`."""
        if needed_bytes > self._budget_bytes:
            return False
        files = sorted(_files_below(self._root), key=lambda file: file.used_at)
        total = sum(file.size_bytes for file in files)
        for file in files:
            if total + needed_bytes <= self._budget_bytes:
                break
            if file.used_at >= since or not file.finished:
                continue
            file.path.unlink(missing_ok=True)
            total -= file.size_bytes
            self._forget(file.path)
            if file.path.parent != self._folder:
                with suppress(OSError):  # not empty, which is the rule
                    file.path.parent.rmdir()
        free = shutil.disk_usage(self._root).free
        return total + needed_bytes <= self._budget_bytes and needed_bytes + _LEFT_FREE_BYTES <= free

    # --- the index ---

    def _add(self, tokens: list[int], path: Path) -> None:
        self._forget(path)
        with self._lock:
            entry = self._next_entry
            self._next_entry += 1
            self._tree.open(entry)
            self._tree.extend(entry, tokens)
            self._paths[entry] = path

    def _prefixes_of(self, tokens: list[int]) -> list[int]:
        """The entries that `tokens` go on from, the whole of them."""
        with self._lock:
            lengths = {entry: self._tree.length(entry) for entry in self._paths}
            return [
                entry
                for entry, length in lengths.items()
                if length < len(tokens) and self._tree.tokens(entry) == tokens[:length]
            ]

    def _forget(self, path: Path) -> None:
        with self._lock:
            for entry in [entry for entry, known in self._paths.items() if known == path]:
                del self._paths[entry]
                self._tree.release(entry)

    def _drop(self, entry: int) -> None:
        """Remove a file, and forget it."""
        with self._lock:
            path = self._paths.pop(entry, None)
            if path is None:
                return
            self._tree.release(entry)
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _read(path: Path, use: Callable[[BufferedReader], T]) -> T | None:
    """What `use` makes of a file; None where it is not there any more, or is found damaged, and then removed."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return use(file)
    except FileNotFoundError:
        return None
    except (DamagedFile, OSError) as error:
        _log.warning("a saved prefix is removed, because %s: %s", error, path)
        with suppress(OSError):
            path.unlink()
        return None


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size_bytes: int
    used_at: float
    finished: bool


def _files_below(root: Path) -> Iterator[_File]:
    for path in root.glob("*/*/*"):
        with suppress(FileNotFoundError):
            status = path.lstat()
            yield _File(path, status.st_size, status.st_mtime, path.suffix == _SUFFIX)


def _remove_unfinished(root: Path) -> None:
    """Remove what processes left that died while they wrote."""
    for path in root.glob(f"*/*/*{_UNFINISHED}"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _touch(path: Path) -> None:
    """Remember that the file is used now. Its own time stamp would be coarser than the clock it is compared with."""
    now = time.time()
    with suppress(OSError):
        os.utime(path, (now, now))


def _name_of(tokens: list[int]) -> str:
    return hashlib.sha256(np.asarray(tokens, dtype="<i4").tobytes()).hexdigest()[:32]
