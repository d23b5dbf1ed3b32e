"""The store as a server uses it: it remembers what is used, and keeps to a lock file and a disk budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llmserve.errors import Conflict, InvalidModel, ModelNotFound
from llmserve.settings import Settings, home_directory
from llmserve.store.budget import Budget
from llmserve.store.catalog import Catalog
from llmserve.store.lock_links import remember_lock
from llmserve.store.locked_pull import pull_locked
from llmserve.store.lockfile import LockedModel, LockFile, difference, read_lock
from llmserve.store.manifests import Manifest
from llmserve.store.names import Reference, parse_name, shown
from llmserve.store.options import PullOptions
from llmserve.store.origins import Wanted, origin_of
from llmserve.store.progress import Report
from llmserve.store.store import Store
from llmserve.types import InstalledModel

# A use is written down once in so many seconds: a model is asked for in every request.
_NOTE_SECONDS = 60.0


class ServingStore(Store):
    """With a `lock` it has the models of that file and no others, and none whose digest is not the locked one.

    `budget` holds for pulls that state none of their own. `clock` counts seconds.
    """

    def __init__(
        self,
        home: Path,
        *,
        lock: LockFile | None = None,
        budget: Budget | None = None,
        catalog: Catalog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(home, catalog=catalog)
        self._lock = lock
        self._budget = budget
        self._clock = clock
        self._noted: dict[str, float] = {}

    def find(self, name: str) -> InstalledModel:
        """As `Store.find`. Raises `ModelNotFound` and `Conflict` too, for what is not as it is locked."""
        found = super().find(name)
        now = self._clock()
        if now - self._noted.get(found.name, -_NOTE_SECONDS) >= _NOTE_SECONDS:
            self._noted[found.name] = now
            self.manifests.note_use(parse_name(found.name))
        return found

    def manifest(self, name: str) -> Manifest:
        if self._lock is None:
            return super().manifest(name)
        locked = self._locked(self._lock, name)
        manifest = super().manifest(name)
        if differs := difference(locked, manifest):
            raise Conflict(
                f"`{manifest.name}` is not the model of {self._lock.path.name}, and no other is served: it {differs}",
                param="model",
                code="model_differs",
                hint=f"llmserve rm {manifest.name}; llmserve pull --locked {self._lock.path}",
            )
        return manifest

    def list(self) -> tuple[InstalledModel, ...]:
        models = super().list()
        return models if self._lock is None else tuple(model for model in models if self._is_served(model.name))

    def wanted(self, name: str, options: PullOptions) -> Wanted:
        if self._lock is None:
            return super().wanted(name, options)
        locked = self._locked(self._lock, name)
        return Wanted(parse_name(locked.name), origin_of(locked.source))

    def pull(self, name: str, progress: Report | None = None, options: PullOptions | None = None) -> InstalledModel:
        options = options or PullOptions()
        if options.budget is None:
            options = replace(options, budget=self._budget)
        if self._lock is None:
            return super().pull(name, progress, options)
        return pull_locked(self, self._lock, self._locked(self._lock, name).name, progress, options)

    def not_found(self, name: str, reference: Reference) -> ModelNotFound:
        if self._lock is None:
            return super().not_found(name, reference)
        hint = f"llmserve pull --locked {self._lock.path}"
        return ModelNotFound(f"the locked model `{shown(name)}` is not here", param="model", hint=hint)

    def not_served(self) -> tuple[str, ...]:
        """What the lock file names and cannot be served, each with the reason in a sentence."""
        problems = []
        for model in self._lock.models if self._lock else ():
            try:
                self.manifest(model.name)
            except (ModelNotFound, InvalidModel, Conflict) as error:
                problems.append(error.message)
        return tuple(problems)

    def _is_served(self, name: str) -> bool:
        try:
            self.manifest(name)
        except (ModelNotFound, InvalidModel, Conflict):
            return False
        return True

    def _locked(self, lock: LockFile, name: str) -> LockedModel:
        locked = lock.model(str(self.reference(name)))
        if locked is None:
            raise ModelNotFound(
                f"`{shown(name)}` is not in {lock.path.name}, and no other model is served",
                param="model",
                code="model_not_locked",
                hint="`llmserve lock` writes the file anew; without `--locked` every installed model is served",
            )
        return locked


def serving_store(settings: Settings) -> ServingStore:
    """The store for a server with these settings. Raises `SettingsError` for a lock file that cannot be read."""
    home = home_directory(settings)
    lock = None if settings.locked is None else read_lock(settings.locked)
    if lock is not None and home.is_dir():
        remember_lock(home, lock.path)
    return ServingStore(home, lock=lock, budget=budget_of(settings))


def budget_of(settings: Settings) -> Budget | None:
    """The budget that the settings state: models go only where they allow it, since nobody can be asked."""
    if settings.disk_budget is None:
        return None
    return Budget(settings.disk_budget, lambda _leaving: bool(settings.make_room))


def locked_settings(settings: Settings) -> Settings:
    """The settings with those of the lock file that they name. Raises `SettingsError` where the two differ."""
    return settings if settings.locked is None else read_lock(settings.locked).applied(settings)
