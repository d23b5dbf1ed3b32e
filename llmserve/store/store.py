"""The store: find, list, pull, remove and inspect models. Everything here blocks; call it from a thread.

Safe for many threads and processes on one directory: a model is pulled once however many ask, a reader never waits, and
a process that dies leaves the old state or the new one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmserve.errors import Conflict, InvalidModel, InvalidRequest, ModelNotFound
from llmserve.installed import AdapterFile, InstalledModel
from llmserve.openai.adapters import require_adapter, split_adapter
from llmserve.store.blobs import Blobs
from llmserve.store.catalog import Catalog, load_catalog
from llmserve.store.defaults import ChatDefaults
from llmserve.store.files import current_identity, private_directory
from llmserve.store.inspection import inspect_model
from llmserve.store.locks import Locks
from llmserve.store.manifests import Companion, DamagedModel, Manifest, Manifests
from llmserve.store.names import LogicalName, Reference, is_path, parse_name, parse_url, shown
from llmserve.store.progress import PullProgress, Report, ignore_progress
from llmserve.store.saved_prefixes import SavedPrefixes
from llmserve.store.users import processes_using
from llmserve.store.views import Views

if TYPE_CHECKING:
    from llmserve.store.options import PullOptions
    from llmserve.store.origins import Wanted
    from llmserve.store.removal import Removal
    from llmserve.types import ModelInfo

USER_CATALOG = "models.toml"


class Store:
    """The models under one data directory, which is created (mode 0700) by the first call that writes.

    Names are those of `names.py` and the catalog's aliases; every method that takes one raises `InvalidRequest` for
    text that is none. `blobs`, `manifests`, `locks`, `views`, `prefixes` and `removal` are the parts of it that the
    other modules of this package work on.
    """

    def __init__(self, home: Path, *, catalog: Catalog | None = None) -> None:
        self.home = Path(home).absolute()
        self._given_catalog = catalog
        self.locks = Locks(self.home / "locks")
        self.blobs = Blobs(self.home / "blobs", self.home / "scratch", self.locks)
        self.views = Views(self.home / "views", self.home / "scratch", self.blobs)
        self.manifests = Manifests(self.home / "manifests", self.home / "scratch")
        self.prefixes = SavedPrefixes(self.home / "prefixes")

    @cached_property
    def removal(self) -> Removal:
        from llmserve.store.removal import Removal

        return Removal(self.blobs, self.views, self.manifests, self.prefixes)

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog given, or else the shipped one with the models of the user's own file in the data directory."""
        if self._given_catalog is not None:
            return self._given_catalog
        own = self.home / USER_CATALOG
        return load_catalog(own if own.is_file() else None)

    def find(self, name: str) -> InstalledModel:
        """The installed model of this name, if its files are still those that were verified; a few system calls.

        `name@adapter` is the model too, if it has that adapter. Raises `ModelNotFound` with the way to get it,
        `AdapterNotFound`, and `InvalidModel` for a file that changed or a damaged manifest.
        """
        name, adapter = split_adapter(name)
        found = self.installed(self.manifest(name))
        require_adapter(found, adapter)
        return found

    def manifest(self, name: str) -> Manifest:
        """The manifest of the model that `find` returns. Raises as it does."""
        reference = self.reference(name)
        manifest = self.manifests.read(reference)
        if manifest is None:
            raise self.not_found(name, reference)
        if problem := self.problem(manifest):
            raise InvalidModel(f"`{manifest.name}` {problem}; it is not served", hint=_repull_hint(manifest))
        return manifest

    def list(self) -> tuple[InstalledModel, ...]:
        """Every model that `find` would return, sorted by name."""
        return self.survey()[0]

    def damaged(self) -> tuple[DamagedModel, ...]:
        """Every model in the store that `find` would refuse, and why."""
        return self.survey()[1]

    def survey(self) -> tuple[tuple[InstalledModel, ...], tuple[DamagedModel, ...]]:
        """What `list` and `damaged` return, for one reading of the manifests."""
        manifests, unreadable = self.manifests.read_all()
        problems = [(manifest, self.problem(manifest)) for manifest in manifests]
        return (
            tuple(self.installed(manifest) for manifest, problem in problems if not problem),
            unreadable + tuple(DamagedModel(manifest.name, problem) for manifest, problem in problems if problem),
        )

    def defaults(self, name: str) -> ChatDefaults:
        """What suits a model in a chat: what was stated when it was created, or else what the catalog says.

        Whatever its adapter, where `name` names one.
        """
        name, _ = split_adapter(name)
        try:
            manifest = self.manifests.read(self.reference(name))
        except InvalidModel:
            manifest = None
        if manifest is not None and manifest.defaults is not None:
            return manifest.defaults
        entry = self.catalog.entry(name)
        return entry.defaults if entry else ChatDefaults()

    def pull(self, name: str, progress: Report | None = None, options: PullOptions | None = None) -> InstalledModel:
        """Get a model, or return it at once where it is here and intact. A path is adopted.

        Whoever asks for a model while it is being pulled waits for that pull. An exception raised by `progress`
        stops the pull. Raises `ModelNotFound`, `PullFailed`, `InsufficientStorage` or `InvalidModel`; nothing becomes
        visible then.
        """
        if is_path(name):
            from llmserve.store.adoption import adopt

            return adopt(self, Path(name), progress)
        from llmserve.store.options import PullOptions
        from llmserve.store.origins import fetched
        from llmserve.store.registration import register

        report = progress or ignore_progress
        options = options or PullOptions()
        target = self.wanted(name, options)
        if installed := self._intact(target.reference):
            return installed
        report(PullProgress("resolving", 0, None))
        self.prepare()
        with self.locks.held("model", str(target.reference), lambda: report(PullProgress("waiting", 0, None))):
            if installed := self._intact(target.reference):
                return installed
            checked = self.within_budget(target.reference, options, report)
            with fetched(target, options, self.blobs, checked) as artifact:
                return register(self, target.reference, artifact, report)

    def wanted(self, name: str, options: PullOptions) -> Wanted:
        """What a pull of `name` would get, and why that variant. Raises as `pull` does, but asks nobody."""
        from llmserve.store.origins import wanted

        reference = self.reference(name)
        found = wanted(self.catalog, name, reference, options, self._is_here)
        if found is None:
            if self.manifests.read(reference) is not None:
                self.find(name)  # raises: a local file changed
            message = f"the catalog has no model `{shown(name)}`"
            raise ModelNotFound(message, param="model", hint=self._how_to_find(name, reference))
        return found

    def remove(self, name: str) -> int:
        """Forget a model; returns the bytes freed.

        What is deleted are the blobs and the files in the Hugging Face cache that this store brought and that no other
        model uses; a file of the user's own stays. A model whose file changed or whose manifest is damaged can be
        removed too. Raises `ModelNotFound`, and `Conflict` while a process serves it.
        """
        reference = self.reference(name)
        if not self.home.is_dir():
            raise self.not_found(name, reference)
        self.prepare()
        with self.locks.held("model", str(reference)):
            try:
                manifest = self.manifests.read(reference)
            except InvalidModel:
                manifest = None
            if manifest is not None:
                self.require_unused(manifest)
            if not self.manifests.remove(reference):
                raise self.not_found(name, reference)
            return 0 if manifest is None else self.removal.free_all(manifest)

    def require_unused(self, manifest: Manifest) -> None:
        """Raise `Conflict` while a process serves the model."""
        if users := self._users(manifest):
            raise Conflict(
                f"`{manifest.name}` is in use by process {users[0]}",
                param="model",
                code="model_in_use",
                hint=f"`llmserve stop {manifest.name}` unloads it",
            )

    def _users(self, manifest: Manifest) -> tuple[int, ...]:
        """The processes that serve a model, and not one that has the same files by another name: these stay there."""
        path = self.load_path(manifest)
        others = (other for other in self.manifests.read_all()[0] if other.name != manifest.name)
        is_shared = any(self.load_path(other) == path for other in others)
        return processes_using(path, manifest.name if is_shared else None)

    def inspect(self, name: str) -> ModelInfo:
        """What the files of an installed model, or the file or directory at a path, say. Raises as `find` does.

        Its adapters' bytes are among those of the weights they change.
        """
        if is_path(name):
            from llmserve.store.sources import local

            return inspect_model(local.locate(Path(name)))
        manifest = self.manifest(name)
        entry = self.catalog.entry(manifest.name)
        info = replace(inspect_model(self.load_path(manifest)), parsers=None if entry is None else entry.parsers)
        if manifest.adapters:
            from llmserve.store.adapters import beside

            info = beside(info, {self.file_path(adapter.file) for adapter in manifest.adapters})
        return info if manifest.template is None else replace(info, chat_template=self.own_template(manifest))

    # --- for the rest of the package ---

    def reference(self, name: str) -> Reference:
        """What `name` names. Raises `InvalidRequest` for what is no name, a path among it."""
        if is_path(name):
            # Never looked up: whether a path exists is nobody's business who may only name models.
            raise InvalidRequest(
                f"`{shown(name)}` is a path, not a model name",
                param="model",
                hint="`llmserve pull PATH` registers a file and prints the name it gets",
            )
        if url := parse_url(name):
            return url.model_name
        return parse_name(self.catalog.resolve(name))

    def not_found(self, name: str, reference: Reference) -> ModelNotFound:
        message = f"there is no model `{shown(name)}` here"
        return ModelNotFound(message, param="model", hint=self._how_to_find(name, reference))

    def _how_to_find(self, name: str, reference: Reference) -> str:
        if not isinstance(reference, LogicalName) or parse_url(name) or self.catalog.entry(name):
            return f"llmserve pull {name}"
        import difflib

        manifests, _ = self.manifests.read_all()
        known = {manifest.name for manifest in manifests} | set(self.catalog.names())
        close = difflib.get_close_matches(name, sorted(known), n=3)
        did_you_mean = f"did you mean {' or '.join(f'`{match}`' for match in close)}? " if close else ""
        return f"{did_you_mean}`llmserve list` shows the models that are here, with `--catalog` those to be pulled"

    def require_free(
        self, name: LogicalName, unless_source: str | None = None, *, unless_made: bool = False
    ) -> Manifest | None:
        """Raise `Conflict` for a name that another model has, here or in the catalog: a name means one thing only.

        Not for one from `unless_source`, nor with `unless_made` for one that a description made: that is returned.
        """
        if self.catalog.entry(str(name)) is not None:
            raise Conflict(f"`{name}` is a name of the catalog", param="name", hint="choose another name")
        try:
            manifest = self.manifests.read(name)
        except InvalidModel:
            return None
        if manifest is not None and manifest.source != unless_source and not (unless_made and manifest.made):
            raise Conflict(f"there is a model `{name}` already", param="name", hint=f"`llmserve rm {name}` removes it")
        return manifest

    def problem(self, manifest: Manifest) -> str | None:
        """Why the model cannot be served: the end of a sentence that starts with its name."""
        for file in manifest.everything:
            identity = current_identity(self.file_path(file))
            which = f": `{file.name}`" if len(manifest.everything) > 1 else ""
            if identity is None:
                return f"is no longer on the disk{which}"
            if identity != file.identity:
                return f"changed on disk since it was verified{which}"
        return manifest.damage

    def file_path(self, file: Companion) -> Path:
        """Where the bytes of a model's file are."""
        return self.blobs.path(file.sha256) if file.path is None else Path(file.path)

    def load_path(self, manifest: Manifest) -> Path:
        """What an engine is to load: the main file or, of safetensors, its directory."""
        if manifest.path is not None:
            main = Path(manifest.path)
        elif manifest.companions:
            main = self.views.file(manifest)
        else:
            main = self.blobs.path(manifest.sha256)
        return main.parent if manifest.format == "safetensors" else main

    def own_template(self, manifest: Manifest) -> str | None:
        """The chat template that the model was created with. Raises `InvalidModel` where it cannot be read."""
        if manifest.template is None:
            return None
        try:
            return self.file_path(manifest.template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidModel(f"the chat template of `{manifest.name}` cannot be read as text") from error

    def installed(self, manifest: Manifest) -> InstalledModel:
        entry = self.catalog.find(manifest.name)
        return InstalledModel(
            name=manifest.name,
            aliases=entry.aliases if entry else (),
            format=manifest.format,
            quantization=manifest.quantization,
            path=str(self.load_path(manifest)),
            size_bytes=manifest.size_bytes,
            sha256=manifest.digest,
            source=manifest.source,
            pulled_at=manifest.pulled_at,
            template=str(self.file_path(manifest.template)) if manifest.template else None,
            adapters=tuple(
                AdapterFile(
                    str(self.file_path(adapter.file)),
                    adapter.file.sha256,
                    adapter.scale,
                    adapter.name,
                    adapter.default,
                )
                for adapter in manifest.adapters
            ),
            pinned=manifest.pinned,
        )

    def within_budget(self, wanted: Reference, options: PullOptions, report: Report) -> Report:
        """`report` for a pull, which makes room for it first where there is a budget."""
        if options.budget is None:
            return report
        from llmserve.store.budget import within_budget

        return within_budget(self, options.budget, wanted, report)

    def used_at(self, manifest: Manifest) -> float:
        """When the model was last used, or else installed (seconds of the epoch)."""
        used_at = self.manifests.used_at(parse_name(manifest.name))
        return manifest.pulled_at if used_at is None else used_at

    def prepare(self) -> None:
        """Make the directories that a change needs."""
        for directory in (self.home, self.home / "locks", self.home / "scratch", self.home / "manifests"):
            private_directory(directory)

    # --- what is here ---

    def _is_here(self, reference: Reference) -> bool:
        return self._intact(reference) is not None

    def _intact(self, reference: Reference) -> InstalledModel | None:
        """The installed model if it is here and `find` would return it."""
        try:
            manifest = self.manifests.read(reference)
        except InvalidModel:
            return None
        return self.installed(manifest) if manifest and not self.problem(manifest) else None


def _repull_hint(manifest: Manifest) -> str:
    scheme, _, path = manifest.source.partition(":")
    return f"llmserve pull {path if scheme == 'file' else manifest.name}"
