"""What the store takes on the disk, and what of it nobody needs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmserve.store.files import free_bytes
from llmserve.store.scratch import reclaim
from llmserve.store.store import Store

Where = Literal["store", "hugging face cache", "own file"]


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """`size_bytes` of a model's files, of which `shared_bytes` belong to other models of the store too.

    `used_at` is when the model was last used, or else installed (seconds of the epoch).
    """

    name: str
    size_bytes: int
    shared_bytes: int
    where: Where
    used_at: float
    pinned: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Everything in bytes, each file counted once. `unused_bytes` are blobs without a model, `partial_bytes` what
    interrupted pulls left for the next, `prefix_bytes` what workers keep of texts from run to run; `free_bytes` is what
    is left where the store is."""

    models: tuple[ModelUsage, ...]
    total_bytes: int
    unused_bytes: int
    partial_bytes: int
    prefix_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Waste:
    """A file or directory that may go, and why."""

    path: Path
    size_bytes: int
    reason: str


def usage(store: Store) -> Usage:
    """What is on the disk. Files that are gone count nothing."""
    manifests, _ = store.manifests.read_all()
    sizes = {str(store.file_path(file)): file.identity.size_bytes for m in manifests for file in m.everything}
    uses = Counter(path for m in manifests for path in {str(store.file_path(file)) for file in m.everything})
    models = []
    for manifest in manifests:
        paths = {str(store.file_path(file)) for file in manifest.everything}
        models.append(
            ModelUsage(
                manifest.name,
                manifest.size_bytes,
                sum(sizes[path] for path in paths if uses[path] > 1),
                _where(manifest.path),
                store.used_at(manifest),
                manifest.pinned,
            )
        )
    waste = list(_waste(store))
    return Usage(
        models=tuple(models),
        total_bytes=sum(sizes.values()),
        unused_bytes=sum(item.size_bytes for item in waste if item.reason != _PARTIAL),
        partial_bytes=sum(item.size_bytes for item in waste if item.reason == _PARTIAL),
        prefix_bytes=store.prefixes.size_bytes(),
        free_bytes=free_bytes(store.home),
    )


def prune(store: Store, *, partial: bool = False, dry_run: bool = False) -> tuple[Waste, ...]:
    """Remove what no model uses and what dead processes left; with `partial` also the beginnings of interrupted pulls.

    Returns what was removed or, with `dry_run`, what would be. A pull that runs keeps what it has.
    """
    if not store.home.is_dir():
        return ()
    store.prepare()
    if not dry_run:
        reclaim(store.home / "scratch")
    removed = []
    for item in list(_waste(store)):
        if item.reason == _PARTIAL and not partial:
            continue
        if dry_run or _remove(store, item):
            removed.append(item)
    return tuple(removed)


_UNUSED = "a blob that no model uses"
_VIEW = "the links of a model that is gone"
_PREFIXES = "prefixes of texts for a model that is gone"
_PARTIAL = "the beginning of an interrupted pull"


def _waste(store: Store) -> Iterator[Waste]:
    manifests, damaged = store.manifests.read_all()
    if not damaged:  # a manifest that cannot be read may need any blob
        used = {sha256 for manifest in manifests for sha256 in manifest.blobs}
        for path in sorted(store.blobs.root.glob("sha256-*")):
            if path.name.removeprefix("sha256-") not in used:
                yield Waste(path, path.lstat().st_size, _UNUSED)
        views = {manifest.files_digest for manifest in manifests if manifest.path is None and manifest.companions}
        for path in sorted(store.views.root.glob("*")):
            if path.name not in views:
                yield Waste(path, 0, _VIEW)
        for path in store.prefixes.unused(manifests):
            yield Waste(path, store.prefixes.size_bytes(path), _PREFIXES)
    for path in (*sorted(store.blobs.partial_root.glob("sha256-*")), *_partial_in_hub_cache()):
        yield Waste(path, path.lstat().st_size, _PARTIAL)


def _partial_in_hub_cache() -> list[Path]:
    from huggingface_hub import constants

    return sorted(Path(constants.HF_HUB_CACHE).glob("models--*/blobs/*.llmserve.incomplete"))


def _remove(store: Store, item: Waste) -> bool:
    if item.reason == _UNUSED:
        sha256 = item.path.name.removeprefix("sha256-")
        with store.blobs.lock(sha256):
            # Again, now that nobody can register it meanwhile.
            return store.removal.free(sha256) > 0
    if item.reason in {_VIEW, _PREFIXES}:
        shutil.rmtree(item.path, ignore_errors=True)
        return True
    if item.path.parent == store.blobs.partial_root:
        with store.blobs.lock(item.path.name.removeprefix("sha256-")):
            item.path.unlink(missing_ok=True)
        return True
    item.path.unlink(missing_ok=True)
    return True


def _where(path: str | None) -> Where:
    from llmserve.store.sources.hub_cache import cache_of

    if path is None:
        return "store"
    return "hugging face cache" if cache_of(Path(path)) else "own file"
