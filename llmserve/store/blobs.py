"""Content-addressed files of the store: visible under their SHA-256 only when complete and verified."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from llmserve.errors import InvalidModel, InvalidRequest, PullFailed, StartupFailed
from llmserve.store.files import (
    FileIdentity,
    current_identity,
    identity_of,
    inside,
    megabytes,
    private_directory,
    rename_durably,
    require_space,
    sha256_of,
    storage_errors,
)
from llmserve.store.locks import Locks
from llmserve.store.progress import PullProgress, Report
from llmserve.store.scratch import Scratch, scratch

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file must be; None where nobody said."""

    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Incoming:
    """A file on its way in: the size its source states, and its content."""

    size_bytes: int
    chunks: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class Blob:
    path: Path
    sha256: str
    identity: FileIdentity


# Opens a file for reading in, working in the scratch directory it is given.
Opener: TypeAlias = Callable[[Scratch], AbstractContextManager[Incoming]]


class Blobs:
    """The directory of blobs. Blocking; safe for many threads and processes at once."""

    def __init__(self, root: Path, scratch_root: Path, locks: Locks) -> None:
        self.root = root
        self.partial_root = root.with_name("partial")
        self._scratch_root = scratch_root
        self._locks = locks

    def path(self, sha256: str) -> Path:
        """Where the blob of this digest is or would be. Raises `InvalidRequest` for text that is no SHA-256."""
        if not is_sha256(sha256):
            raise InvalidRequest("a digest is 64 lower-case hexadecimal digits", param="model")
        # What consists of digits leads nowhere else.
        return self.root / f"sha256-{sha256}"

    @contextmanager
    def lock(self, sha256: str) -> Iterator[None]:
        with self._locks.held("blob", sha256):
            yield

    @contextmanager
    def obtained(self, expected: Expected, opener: Opener, report: Report) -> Iterator[Blob]:
        """The expected blob, read in through `opener` unless it is here already, for the length of the block.

        Its lock is held until the block ends: write the manifest inside, and no removal can come between. Raises
        `PullFailed` for content that is not what was expected, `InsufficientStorage`, and what `opener` raises;
        nothing is visible then.
        """
        with ExitStack() as stack:
            if expected.sha256 is not None:
                stack.enter_context(self.lock(expected.sha256))
                if blob := self._verified(expected.sha256, report):
                    yield blob
                    return
            area = stack.enter_context(scratch(self._scratch_root))
            with opener(area) as incoming:
                received = self._receive(incoming, expected, area, report)
            if expected.sha256 is None:
                stack.enter_context(self.lock(received.sha256))
            yield self._publish(received)

    @contextmanager
    def downloaded(self, sha256: str, fill: Callable[[Path], None], report: Report) -> Iterator[Blob]:
        """The blob of this digest, brought by `fill` unless it is here already, for the length of the block.

        `fill` completes the file it is given, which holds what an earlier attempt brought. Otherwise as `obtained`.
        """
        with self.lock(sha256):
            if blob := self._verified(sha256, report):
                yield blob
                return
            private_directory(self.partial_root)
            partial = inside(self.partial_root, f"sha256-{sha256}")
            continued = current_identity(partial) is not None
            fill(partial)
            actual, identity = sha256_of(partial, report)
            if actual != sha256 and continued:
                # What was here before may have been at fault, so once more from the start.
                partial.unlink()
                fill(partial)
                actual, identity = sha256_of(partial, report)
            if actual != sha256:
                partial.unlink()
                raise PullFailed(
                    f"the file's SHA-256 is {actual} instead of {sha256}; it was not kept",
                    hint="pull again; if it happens again, the source serves something else: do not trust it",
                )
            yield self._publish(Blob(partial, sha256, identity))

    def put(self, received: Blob) -> Blob:
        """Make a verified file of the scratch directory the blob of its digest. The caller holds its lock."""
        return self._publish(received)

    def remove(self, sha256: str) -> int:
        """Remove the blob; the bytes freed, 0 if it was not here. The caller holds its lock. Raises `StartupFailed`."""
        path = self.path(sha256)
        identity = current_identity(path)
        with storage_errors("remove the model's file", StartupFailed):
            path.unlink(missing_ok=True)
        return identity.size_bytes if identity else 0

    def _verified(self, sha256: str, report: Report) -> Blob | None:
        """The blob if it is here and its content is right; one that is not is removed."""
        path = self.path(sha256)
        if not path.exists():
            return None
        with suppress(InvalidModel):
            actual, identity = sha256_of(path, report)
            if actual == sha256:
                return Blob(path, sha256, identity)
        path.unlink(missing_ok=True)
        return None

    def _receive(self, incoming: Incoming, expected: Expected, area: Scratch, report: Report) -> Blob:
        import hashlib  # It loads OpenSSL, which most commands need not wait for.

        if expected.size_bytes is not None and incoming.size_bytes != expected.size_bytes:
            raise PullFailed(
                f"the file has {incoming.size_bytes:,} bytes instead of {expected.size_bytes:,}; it was not kept"
            )
        require_space(area.path, incoming.size_bytes)
        path = area.path / "blob"
        digest = hashlib.sha256()
        done = 0
        with storage_errors("write the model"), path.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            for chunk in incoming.chunks:
                done += len(chunk)
                if done > incoming.size_bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
                report(PullProgress("verifying", done, incoming.size_bytes))
            file.flush()
            os.fsync(file.fileno())
            identity = identity_of(os.fstat(file.fileno()))
        if done != incoming.size_bytes:
            raise PullFailed(f"the source did not send the {megabytes(incoming.size_bytes)} it announced")
        actual = digest.hexdigest()
        if expected.sha256 is not None and actual != expected.sha256:
            raise PullFailed(
                f"the file's SHA-256 is {actual} instead of {expected.sha256}; it was not kept",
                hint="the source serves something else than it did when the catalog was written: do not trust it",
            )
        return Blob(path, actual, identity)

    def _publish(self, received: Blob) -> Blob:
        path = self.path(received.sha256)
        with storage_errors("publish the model"):
            private_directory(path.parent)
            rename_durably(received.path, path)
        return Blob(path, received.sha256, received.identity)


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None
