"""Getting exactly the models of a lock file, or saying what differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from llmserve.errors import Conflict, InvalidModel, ModelNotFound, PullFailed
from llmserve.store.adapters import read_adapter
from llmserve.store.blobs import Expected
from llmserve.store.copies import template_blob
from llmserve.store.gguf import read_whole_header
from llmserve.store.lockfile import LockedModel, LockFile, difference, files_difference
from llmserve.store.manifests import Adapter, Companion, Created
from llmserve.store.names import QUANTIZED, Reference
from llmserve.store.options import PullOptions
from llmserve.store.origins import Wanted, fetched, origin_of
from llmserve.store.progress import PullProgress, Report, ignore_progress
from llmserve.store.registration import discard, register
from llmserve.store.sources.artifact import Artifact
from llmserve.store.store import Store
from llmserve.types import InstalledModel

_LOCAL = "file:"


def pull_locked(
    store: Store, lock: LockFile, name: str, progress: Report | None = None, options: PullOptions | None = None
) -> InstalledModel:
    """Get the model `name` exactly as the lock file has it, or return it at once where it is here like that.

    Raises `ModelNotFound` for a name that is not locked, `Conflict` where it means something else here, and what a
    pull raises, `PullFailed` naming the file where its source gives another; nothing becomes visible then.
    """
    reference = store.reference(name)
    locked = lock.model(str(reference))
    if locked is None:
        raise ModelNotFound(f"`{name}` is not in {lock.path.name}", param="model")
    report = progress or ignore_progress
    options = options or PullOptions()
    store.prepare()
    with store.locks.held("model", str(reference), lambda: report(PullProgress("waiting", 0, None))):
        if installed := _installed(store, lock, reference, locked):
            return installed
        if missing := [adapter.path for adapter in locked.adapters if not Path(adapter.path).is_file()]:
            raise PullFailed(f"`{locked.name}` needs the adapter {missing[0]}, which is not here")
        report(PullProgress("resolving", 0, None))
        with _artifact(store, reference, locked, options, store.within_budget(reference, options, report)) as artifact:
            return _register(store, reference, locked, artifact, report)


def _installed(store: Store, lock: LockFile, reference: Reference, locked: LockedModel) -> InstalledModel | None:
    try:
        manifest = store.manifests.read(reference)
    except InvalidModel:
        return None
    if manifest is None or (store.problem(manifest) and difference(locked, manifest) is None):
        return None
    if differs := difference(locked, manifest):
        raise Conflict(
            f"`{locked.name}` is not the one of {lock.path.name}: it {differs}",
            param="model",
            hint=f"`llmserve rm {locked.name}`, then pull again; or write the lock file anew with `llmserve lock`",
        )
    return store.installed(manifest)


@contextmanager
def _artifact(
    store: Store, reference: Reference, locked: LockedModel, options: PullOptions, report: Report
) -> Iterator[Artifact]:
    """The files of the locked model, checked against the lock; what is not as it says is not kept."""
    if locked.source.startswith(_LOCAL):
        from llmserve.store.sources import local

        artifact = local.fetch(local.locate(Path(locked.source.removeprefix(_LOCAL))), report)
        _require_same(locked, artifact)
        yield artifact
        return
    origin = origin_of(locked.source)
    if origin is None:
        how = (
            "was quantized on the machine it was locked on" if locked.source.startswith(QUANTIZED) else "has no source"
        )
        raise PullFailed(
            f"`{locked.name}` {how}, so it cannot be fetched",
            hint=f"carry it here: `llmserve export {locked.name} -o FILE.tar` there, `llmserve import FILE.tar` here",
        )
    size_bytes = sum(file.size_bytes for file in locked.files)
    expected = Expected(size_bytes, locked.files[0].sha256 if len(locked.files) == 1 else None)
    with fetched(Wanted(reference, origin, expected), options, store.blobs, report) as artifact:
        try:
            _require_same(locked, artifact)
        except PullFailed:
            discard(store, reference, artifact)
            raise
        yield artifact


def _require_same(locked: LockedModel, artifact: Artifact) -> None:
    files = [Companion(file.name, file.sha256, file.identity) for file in artifact.files]
    if differs := files_difference(locked, files):
        raise PullFailed(
            f"what {locked.source} gives for `{locked.name}` {differs}", hint="do not trust it before you know why"
        )


def _register(
    store: Store, reference: Reference, locked: LockedModel, artifact: Artifact, report: Report
) -> InstalledModel:
    created = Created(locked.defaults, adapters=_adapters(locked, artifact, report))
    with ExitStack() as stack:
        if locked.template is not None:
            created = replace(created, template=stack.enter_context(template_blob(store, locked.template)))
        return register(store, reference, artifact, report, created)


def _adapters(locked: LockedModel, artifact: Artifact, report: Report) -> tuple[Adapter, ...]:
    if not locked.adapters:
        return ()
    base = read_whole_header(artifact.main.path)
    adapters = []
    for adapter in locked.adapters:
        file = read_adapter(Path(adapter.path), base, report)
        if file.sha256 != adapter.sha256:
            raise PullFailed(
                f"the adapter {adapter.path} of `{locked.name}` is another: its SHA-256 is {file.sha256}, "
                f"not {adapter.sha256}"
            )
        adapters.append(Adapter(file, adapter.scale, adapter.name, bool(adapter.default)))
    return tuple(adapters)
