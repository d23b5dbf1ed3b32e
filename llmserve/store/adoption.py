"""Models of the user's own, registered where they lie."""

from __future__ import annotations

from pathlib import Path

from llmserve.errors import InvalidModel
from llmserve.store.manifests import Manifest
from llmserve.store.names import LogicalName, Reference, local_name, parse_name
from llmserve.store.progress import Report, ignore_progress
from llmserve.store.registration import register
from llmserve.store.sources import local
from llmserve.store.sources.artifact import Artifact
from llmserve.store.store import Store
from llmserve.types import InstalledModel


def adopt(
    store: Store,
    path: Path,
    progress: Report | None = None,
    name: LogicalName | None = None,
    sha256: str | None = None,
) -> InstalledModel:
    """Register a user's model where it lies: a .gguf file, or a directory of safetensors.

    It is called `name`, or else `<file name>:local`; at once where it is known and unchanged. Where another file
    has that name already, a part of the digest is added to it. Raises `InvalidModel`, also for a file that is not
    the one of `sha256`; `Conflict` for a `name` that another model has.
    """
    # A file whose digest is known is a store's, and has no extension there.
    resolved = local.locate(path) if sha256 is None else path.resolve()
    if installed := _intact(store, resolved, name):
        return installed
    report = progress or ignore_progress
    store.prepare()
    with store.locks.held("file", str(resolved)):
        if installed := _intact(store, resolved, name):
            return installed
        artifact = local.fetch(resolved, report)
        if sha256 not in {None, artifact.main.sha256}:
            raise InvalidModel(f"{path.name} is damaged: its SHA-256 is {artifact.main.sha256}")
        # One lock for all names of local files: two files must not both find a name free.
        with store.locks.held("names", "local"):
            if name is not None:
                store.require_free(name, unless_source=artifact.source)
            return register(store, name or _name(store, artifact, path), artifact, report)


def _intact(store: Store, resolved: Path, name: LogicalName | None) -> InstalledModel | None:
    known = _known(store, f"file:{resolved}")
    if known is None or store.problem(known) or (name is not None and known.name != str(name)):
        return None
    return store.installed(known)


def _known(store: Store, source: str) -> Manifest | None:
    manifests, _ = store.manifests.read_all()
    return next((manifest for manifest in manifests if manifest.source == source), None)


def _name(store: Store, artifact: Artifact, path: Path) -> Reference:
    """The name a local file has, or the one it gets."""
    if known := _known(store, artifact.source):
        return parse_name(known.name)
    reference = local_name(path.absolute().name if path.is_dir() else path.stem)
    try:
        taken = store.manifests.read(reference) is not None
    except InvalidModel:
        taken = True
    return LogicalName(f"{reference.family}-{artifact.main.sha256[:8]}", reference.tag) if taken else reference
