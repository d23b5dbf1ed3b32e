"""Files and directories that must be what they seem: private, regular, unchanged, durably written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmserve.errors import (
    InsufficientStorage,
    InvalidModel,
    InvalidRequest,
    LlmserveError,
    PullFailed,
    StartupFailed,
)
from llmserve.store.progress import PullProgress, Report

CHUNK_BYTES = 4 * 1024 * 1024
# Small enough to stay in the processor's cache between reading and hashing, which is a third faster.
_HASH_BYTES = 256 * 1024
_BYTES_PER_REPORT = 16 * 1024 * 1024
# Left free beside what a download needs, for manifests, logs and everybody else on the file system.
MARGIN_BYTES = 128 * 1024 * 1024

# Disk full, quota reached, larger than a file may be.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What changes when a file is edited, truncated or replaced; cheap enough to compare on every load."""

    size_bytes: int
    mtime_ns: int
    inode: int


def identity_of(status: os.stat_result) -> FileIdentity:
    return FileIdentity(status.st_size, status.st_mtime_ns, status.st_ino)


def current_identity(path: Path) -> FileIdentity | None:
    """The identity of the regular file that `path` leads to, or None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return identity_of(status) if stat.S_ISREG(status.st_mode) else None


def private_directory(path: Path) -> Path:
    """Create `path` (mode 0700) with its parents, or accept an existing one that only its owner may write.

    Raises `InsufficientStorage` where there is no room, and `StartupFailed` where it cannot be made, belongs to another
    user or is writable by others: what others can replace cannot be trusted after it was verified.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        kind = InsufficientStorage if error.errno in NO_ROOM else StartupFailed
        raise kind(f"cannot use the directory {path}: {error.strerror}") from error
    if status.st_uid != os.geteuid():
        raise StartupFailed(
            f"the directory {path} belongs to another user", hint="set LLMSERVE_HOME to one of your own"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StartupFailed(f"the directory {path} is writable by other users", hint=f"run `chmod 700 {path}`")
    return path


def inside(root: Path, *parts: str) -> Path:
    """`root` joined with `parts`, which must stay under it. Raises `InvalidRequest` otherwise.

    The names that reach this point have passed `parse_name` already; this is the second lock on the door.
    """
    joined = os.path.normpath(root.joinpath(*parts))
    if joined == str(root) or os.path.commonpath([str(root), joined]) != str(root):
        raise InvalidRequest("the name leads outside the store", param="model")
    return Path(joined)


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A read-only descriptor of the regular, non-empty file at `path`, and its status.

    A symbolic link in the last component is not followed, and a pipe or device is not waited for. Raises
    `InvalidModel`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise InvalidModel(f"cannot open {path}: {reason}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModel(f"{path} is not a regular file")
        if status.st_size == 0:
            raise InvalidModel(f"{path} is empty")
        yield descriptor, status
    finally:
        os.close(descriptor)


def sha256_of(path: Path, report: Report) -> tuple[str, FileIdentity]:
    """The SHA-256 of the file at `path` in lower-case hex, and the identity of the very file that was read.

    Reports `verifying`. Raises `InvalidModel` for what `open_regular` refuses, and for a file that changes meanwhile.
    """
    import hashlib  # It loads OpenSSL, which most commands need not wait for.

    digest = hashlib.sha256()
    with open_regular(path) as (descriptor, before):
        done = told = 0
        buffer = bytearray(_HASH_BYTES)
        view = memoryview(buffer)
        while count := os.readv(descriptor, [buffer]):
            digest.update(view[:count])
            done += count
            if done - told >= _BYTES_PER_REPORT or done >= before.st_size:
                told = done
                report(PullProgress("verifying", done, before.st_size))
        identity = identity_of(os.fstat(descriptor))
    if identity != identity_of(before) or done != before.st_size:
        raise InvalidModel(f"{path} changed while it was read", hint="try again when nothing writes to it")
    return digest.hexdigest(), identity


def write_durably(path: Path, content: bytes) -> None:
    """Write the new file `path` (mode 0600) and wait until it is on the disk."""
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def rename_durably(source: Path, target: Path) -> None:
    """Replace `target` by `source`, on the same file system: now and after a crash, it is the old file or the new."""
    source.replace(target)
    fsync_directory(target.parent)


def fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(directory: Path) -> int:
    """What a user may still write where `directory` is, or will be."""
    while not directory.exists():
        directory = directory.parent
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def require_space(directory: Path, needed_bytes: int) -> None:
    """Raise `InsufficientStorage` unless `needed_bytes` and a margin are free where `directory` is, or will be."""
    free = free_bytes(directory)
    if free < needed_bytes + MARGIN_BYTES:
        raise InsufficientStorage(
            f"{megabytes(needed_bytes)} and a margin of {megabytes(MARGIN_BYTES)} are needed on the disk, "
            f"{megabytes(free)} are free",
            hint="remove a model with `llmserve rm NAME`, or set LLMSERVE_HOME to a larger disk",
        )


@contextmanager
def storage_errors(action: str, otherwise: type[LlmserveError] = PullFailed) -> Iterator[None]:
    """Turn an `OSError` of the block, which does `action`, into `InsufficientStorage` (no room) or `otherwise`."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise InsufficientStorage(f"no room on the disk to {action}: {error.strerror}") from error
        raise otherwise(f"cannot {action}: {error.strerror or error}") from error


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
