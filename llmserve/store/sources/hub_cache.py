"""The cache of the Hugging Face libraries, as their documentation lays it out, shared with the user's other tools.

models--owner--name/blobs/<etag>                 a file's content; the etag is its SHA-256, or git's id of a small one
models--owner--name/snapshots/<commit>/<file>    a link to the blob
models--owner--name/refs/<revision>              the commit a branch or tag was at
.locks/models--owner--name/<etag>.lock           held while the blob is written
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from llmserve.errors import StartupFailed
from llmserve.store.files import fsync_directory, rename_durably, storage_errors

_LOCK_SECONDS = 0.5
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubCache:
    """One repository's part of the cache at `root`."""

    root: Path
    repo_id: str

    @property
    def folder(self) -> Path:
        return self.root / f"models--{self.repo_id.replace('/', '--')}"

    def blob(self, etag: str) -> Path:
        return self.folder / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """Where the beginning of a blob waits for its rest; the cache's own tools know `.incomplete` files as such."""
        return self.folder / "blobs" / f"{etag}.llmserve.incomplete"

    def snapshot(self, commit: str, name: str) -> Path:
        return self.folder / "snapshots" / commit / name

    @contextmanager
    def locked(self, etag: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the lock that every tool which writes this blob takes; `waiting` is called while somebody has it.

        Likewise `refs` instead of an etag, for the commits that branches are at.
        """
        from filelock import Timeout
        from huggingface_hub.utils._fixes import WeakFileLock

        path = self.root / ".locks" / self.folder.name / f"{etag}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(WeakFileLock(path, timeout=_LOCK_SECONDS))
                    break
                except Timeout:
                    waiting()
            yield

    def publish(self, partial: Path, etag: str) -> None:
        """Make a complete and verified file the blob."""
        partial.chmod(0o644)  # as the cache's own tools leave it, which may run as other users of a shared cache
        rename_durably(partial, self.blob(etag))

    def link(self, commit: str, name: str, etag: str) -> Path:
        """Have the file of the snapshot lead to the blob; returns its path. The caller holds the blob's lock."""
        path = self.snapshot(commit, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(self.blob(etag), path.parent)
        if not path.is_symlink() or path.readlink() != Path(target):
            # Always the same name, so that what a dead process left is not left for ever.
            temporary = path.with_name(f".{path.name}.link")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(path)
            fsync_directory(path.parent)
        return path

    def remember(self, revision: str, commit: str) -> None:
        """Note which commit a branch or tag is at, for pulls without a network."""
        if _COMMIT.fullmatch(revision):
            return
        path = self.folder / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.locked("refs", lambda: None):
            temporary = path.with_name(f".{path.name}.ref")
            temporary.write_text(commit, encoding="ascii")
            temporary.replace(path)

    def commit_of(self, revision: str) -> str | None:
        """The commit a revision was at when somebody last asked the Hub."""
        if _COMMIT.fullmatch(revision):
            return revision
        try:
            commit = (self.folder / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if _COMMIT.fullmatch(commit) else None

    def files_of(self, commit: str) -> dict[str, str]:
        """The files of a snapshot that are here, with the etags of their blobs."""
        root = self.folder / "snapshots" / commit
        found = {}
        for path in root.rglob("*"):
            if path.is_symlink() and path.exists():
                found[path.relative_to(root).as_posix()] = path.readlink().name
        return found

    def forget(self, path: Path) -> int:
        """Remove a file of a snapshot, and its blob unless another snapshot leads to it; the bytes freed.

        Raises `StartupFailed` for what cannot be removed.
        """
        if not path.is_symlink():
            return 0
        with storage_errors("remove a file of the Hugging Face cache", StartupFailed):
            blob = self.folder / "blobs" / path.readlink().name
            path.unlink()
            for parent in list(path.parents)[:2]:
                with suppress(OSError):  # not empty
                    parent.rmdir()
            if any(other.is_symlink() and other.readlink().name == blob.name for other in self._snapshot_files()):
                return 0
            size_bytes = blob.lstat().st_size if blob.exists() else 0
            blob.unlink(missing_ok=True)
        return size_bytes

    def _snapshot_files(self) -> Iterator[Path]:
        return self.folder.rglob("snapshots/**/*")


def cache_of(path: Path) -> HubCache | None:
    """The cache that a path of a snapshot belongs to, None for any other path."""
    for folder in path.parents:
        if folder.name.startswith("models--") and path.is_relative_to(folder / "snapshots"):
            return HubCache(folder.parent, folder.name.removeprefix("models--").replace("--", "/", 1))
    return None


def default_cache(repo_id: str) -> HubCache:
    """The cache that the client's settings name (`HF_HOME`, `HF_HUB_CACHE`)."""
    from huggingface_hub import constants

    return HubCache(Path(constants.HF_HUB_CACHE).absolute(), repo_id)
