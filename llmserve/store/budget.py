"""A ceiling for what the store keeps: which models go when another needs room.

What counts is what the store brought, blobs and its part of the Hugging Face cache; a file of the user's own is not
its to remove. The least recently used go first, and never one that is pinned, in use or named by a lock file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmserve.errors import InsufficientStorage, ModelNotFound
from llmserve.planning.formatting import human_bytes, listed
from llmserve.store.lock_links import names_locked
from llmserve.store.names import Reference
from llmserve.store.progress import PullProgress, Report
from llmserve.store.users import paths_in_use

if TYPE_CHECKING:
    from llmserve.store.manifests import Manifest
    from llmserve.store.store import Store


@dataclass(frozen=True, slots=True)
class Kept:
    """A model that takes room: when it was last used (seconds of the epoch), and its files with their sizes."""

    name: str
    used_at: float
    files: tuple[tuple[str, int], ...]

    @property
    def size_bytes(self) -> int:
        return sum(size_bytes for _, size_bytes in self.files)


@dataclass(frozen=True, slots=True)
class Budget:
    """`limit_bytes` in all; `may_remove` is asked before models go, from the thread that pulls."""

    limit_bytes: int
    may_remove: Callable[[tuple[Kept, ...]], bool]


def within_budget(store: Store, budget: Budget, wanted: Reference, report: Report) -> Report:
    """A report that makes room when a download of `wanted` is about to begin, and passes everything on."""
    is_made = False

    def checked(progress: PullProgress) -> None:
        nonlocal is_made
        if not is_made and progress.stage == "downloading" and progress.total is not None:
            is_made = True
            make_room(store, progress.total, budget, keep=(str(wanted),))
        report(progress)

    return checked


def held_bytes(store: Store) -> int:
    """What counts against a budget: the bytes of the files that the store brought, each once."""
    manifests, _ = store.manifests.read_all()
    return _taken(_kept(store, manifest) for manifest in manifests)


def make_room(store: Store, needed_bytes: int, budget: Budget, *, keep: tuple[str, ...]) -> tuple[Kept, ...]:
    """Remove what has to go so that `needed_bytes` more are within the budget; returns what went. Blocking.

    `keep` are the names of models that have to stay: those that are being made, and what they are made of.
    Raises `InsufficientStorage`, and nothing is removed, where no removal could help or none is allowed; `Conflict`
    where a model was loaded meanwhile.
    """
    manifests, _ = store.manifests.read_all()
    kept = tuple(_kept(store, manifest) for manifest in manifests)
    excess_bytes = _taken(kept) + needed_bytes - budget.limit_bytes
    if excess_bytes <= 0:
        return ()
    leaving = choose_leaving(kept, _staying(store, manifests).union(keep), excess_bytes)
    need = f"{human_bytes(needed_bytes)} more are needed in the disk budget of {human_bytes(budget.limit_bytes)}"
    if leaving is None:
        raise InsufficientStorage(
            f"{need}, and removing every model that may go would not be enough",
            hint="raise `disk_budget`, or use `llmserve unpin` or `llmserve rm`; `llmserve du` shows the models",
        )
    if not budget.may_remove(leaving):
        names = listed([f"`{model.name}`" for model in leaving])
        raise InsufficientStorage(
            f"{need}: {names} would have to go",
            hint="`--make-room` or the setting `make_room` removes what was used longest ago; `llmserve pin` keeps one",
        )
    for model in leaving:
        with suppress(ModelNotFound):  # somebody else removed it
            store.remove(model.name)
    return leaving


def choose_leaving(kept: Sequence[Kept], staying: frozenset[str], excess_bytes: int) -> tuple[Kept, ...] | None:
    """The models to remove, least recently used first, so that `excess_bytes` become free; None where none suffice.

    A file that several models share is free when the last of them goes.
    """
    leaving: list[Kept] = []
    for model in sorted(kept, key=lambda model: (model.used_at, model.name)):
        if _freed(kept, leaving) >= excess_bytes:
            break
        if model.name not in staying and model.files:
            leaving.append(model)
    if _freed(kept, leaving) < excess_bytes:
        return None
    # One that turns out not to be needed beside a larger one that has to go anyway may stay.
    for model in list(leaving):
        others = [other for other in leaving if other is not model]
        if _freed(kept, others) >= excess_bytes:
            leaving = others
    return tuple(leaving)


def _freed(kept: Sequence[Kept], leaving: Sequence[Kept]) -> int:
    uses = Counter(path for model in kept for path, _ in model.files)
    uses.subtract(path for model in leaving for path, _ in model.files)
    return sum(size_bytes for path, size_bytes in _files(leaving).items() if not uses[path])


def _taken(kept: Iterable[Kept]) -> int:
    return sum(_files(kept).values())


def _files(kept: Iterable[Kept]) -> dict[str, int]:
    """Every file once, with its size."""
    return {path: size_bytes for model in kept for path, size_bytes in model.files}


def _kept(store: Store, manifest: Manifest) -> Kept:
    files = {
        str(store.file_path(file).resolve()): file.identity.size_bytes
        for file in manifest.everything
        if file.path is None or (manifest.fetched and file in manifest.files)
    }
    return Kept(manifest.name, store.used_at(manifest), tuple(files.items()))


def _staying(store: Store, manifests: Sequence[Manifest]) -> frozenset[str]:
    """The names of the models that must not go."""
    locked, in_use = names_locked(store.home), paths_in_use()
    return frozenset(
        manifest.name
        for manifest in manifests
        # One whose file changed keeps it for a repair; and while its blob is fetched, its lock must not be waited for.
        if manifest.pinned
        or manifest.name in locked
        or str(store.load_path(manifest)) in in_use
        or store.problem(manifest)
    )
