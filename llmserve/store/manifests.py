"""Manifests: one small JSON file per installed model, the only thing that makes a model visible.

manifests/<family>/<tag>.json            logical names
manifests/hf/<readable>-<hash>.json      names whose own text is no file name (likewise `pypi/`)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmserve.choices import ModelFormat
from llmserve.errors import InvalidModel, StartupFailed
from llmserve.json_text import from_json, to_json
from llmserve.store.blobs import is_sha256
from llmserve.store.defaults import ChatDefaults
from llmserve.store.files import (
    FileIdentity,
    fsync_directory,
    inside,
    private_directory,
    rename_durably,
    storage_errors,
    write_durably,
)
from llmserve.store.names import Reference, shown
from llmserve.store.scratch import scratch

# The name of a file that is alone, where one is needed.
MAIN_FILE = "model.gguf"

_MAX_BYTES = 1024 * 1024
_SLASH = "%2F"


@dataclass(frozen=True, slots=True)
class Companion:
    """A further file of a model: `name` is relative to the directory of the main one; `path` as in `Manifest`."""

    name: str
    sha256: str
    identity: FileIdentity
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter (LoRA) of the user's own, how strongly it is applied, and to whom: as in `AdapterFile`."""

    file: Companion
    scale: float = 1.0
    name: str | None = None
    default: bool = False

    @property
    def meaning(self) -> str:
        """All but its file, in one line of the model's digest."""
        name = "" if self.name is None else f" {self.name}"
        return f"{self.scale!r}{name}{' default' if self.default else ''}"


@dataclass(frozen=True, slots=True)
class Created:
    """What a model was created with beside the files of its base."""

    defaults: ChatDefaults | None = None
    template: Companion | None = None
    adapters: tuple[Adapter, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was installed under `name`, and the identity its files had when their SHA-256 was checked.

    `sha256`, `identity` and `path` are those of the main file: the GGUF file, the first of a split one, `config.json`
    of safetensors; `file` is its name where it has companions. `path` is None for a blob of this store, which is found
    by its digest; otherwise it is the absolute path of a file that is not the store's own. `fetched` says that the
    store brought that file into the Hugging Face cache. `damage` is what a later check of the digests found.

    `defaults`, `template` (a blob) and `adapters` are what the model was created with beside the files of its base.
    `made` says that a description made it, so that another one may take its place.
    """

    name: str
    format: ModelFormat
    quantization: str
    sha256: str
    source: str
    pulled_at: float
    identity: FileIdentity
    path: str | None = None
    file: str | None = None
    companions: tuple[Companion, ...] = ()
    license: str | None = None
    fetched: bool = False
    damage: str | None = None
    defaults: ChatDefaults | None = None
    template: Companion | None = None
    adapters: tuple[Adapter, ...] = ()
    pinned: bool = False
    made: bool = False

    @property
    def files(self) -> tuple[Companion, ...]:
        """The files of the weights and what belongs to them, in the same form, the main one first."""
        return (Companion(self.file or MAIN_FILE, self.sha256, self.identity, self.path), *self.companions)

    @property
    def created(self) -> Created:
        return Created(self.defaults, self.template, self.adapters)

    @property
    def additions(self) -> tuple[Companion, ...]:
        """What the model was created with: its template and adapters."""
        return (*((self.template,) if self.template else ()), *(adapter.file for adapter in self.adapters))

    @property
    def everything(self) -> tuple[Companion, ...]:
        return (*self.files, *self.additions)

    @property
    def blobs(self) -> tuple[str, ...]:
        """The digests of the blobs it needs, each once, in the order in which they have to be locked."""
        weights = {file.sha256 for file in self.files if file.path is None}
        adapters = {adapter.file.sha256 for adapter in self.adapters if adapter.file.path is None}
        template = (self.template.sha256,) if self.template else ()
        return (*sorted(weights), *sorted(adapters - weights), *template)

    @property
    def size_bytes(self) -> int:
        return sum(file.identity.size_bytes for file in self.everything)

    @property
    def files_digest(self) -> str:
        """One SHA-256 for all `files`: of several, that of their list as `sha256sum` prints it."""
        if not self.companions:
            return self.sha256
        return _sha256_of_lines(f"{file.sha256}  {file.name}" for file in self.files)

    @property
    def digest(self) -> str:
        """One SHA-256 for the whole model, its additions among it."""
        if not self.additions:
            return self.files_digest
        template = [f"{self.template.sha256}  template"] if self.template else []
        adapters = [
            f"{adapter.file.sha256}  adapter {number} {adapter.meaning}"
            for number, adapter in enumerate(self.adapters, 1)
        ]
        return _sha256_of_lines([f"{self.files_digest}  files", *template, *adapters])


@dataclass(frozen=True, slots=True)
class DamagedModel:
    """A model that is in the store but cannot be served, and why, in a sentence."""

    name: str
    reason: str


class Manifests:
    """The directory of manifests. Blocking; a reader sees a manifest's old or its new content, never a mixture."""

    def __init__(self, root: Path, scratch_root: Path) -> None:
        self._root = root
        self._scratch_root = scratch_root

    def read(self, reference: Reference) -> Manifest | None:
        """The manifest of a model, None where it is not installed. Raises `InvalidModel` for a damaged one."""
        return _load(str(self._path(reference)))

    def read_all(self) -> tuple[tuple[Manifest, ...], tuple[DamagedModel, ...]]:
        """Every manifest, and what could not be read, each sorted by name."""
        manifests: list[Manifest] = []
        damaged: list[DamagedModel] = []
        for directory in self._directories():
            try:
                paths = _manifests_in(directory)
            except OSError as error:
                # Said, and not passed over: what nobody seems to use would be removed.
                reason = f"is in a directory that cannot be read: {error.strerror}"
                damaged.append(DamagedModel(f"{directory.rpartition('/')[2]}:*", reason))
                continue
            for path in paths:
                try:
                    manifest = _load(path)
                except InvalidModel as error:
                    damaged.append(DamagedModel(_name(path), error.message))
                    continue
                if manifest is not None:
                    manifests.append(manifest)
        return (
            tuple(sorted(manifests, key=lambda manifest: manifest.name)),
            tuple(sorted(damaged, key=lambda model: model.name)),
        )

    def names(self) -> frozenset[str]:
        """The names of all manifests, which are not read."""
        names: set[str] = set()
        for directory in self._directories():
            with suppress(OSError):
                names.update(map(_name, _manifests_in(directory)))
        return frozenset(names)

    def write(self, reference: Reference, manifest: Manifest, used_at: float | None = None) -> None:
        """Make the model visible under its name. Raises `InsufficientStorage` or `PullFailed`.

        `used_at` is when it was last used, None for now.
        """
        path = self._path(reference)
        private_directory(path.parent)
        with storage_errors("write the manifest"), scratch(self._scratch_root) as area:
            temporary = area.path / "manifest"
            write_durably(temporary, to_json(manifest, indent=2).encode())
            if used_at is not None:
                os.utime(temporary, (used_at, used_at))
            rename_durably(temporary, path)

    def used_at(self, reference: Reference) -> float | None:
        """When the model was last used, or else installed (seconds of the epoch): its manifest's time of change."""
        try:
            return self._path(reference).stat().st_mtime
        except OSError:
            return None

    def note_use(self, reference: Reference) -> None:
        """Remember that the model is used now; where that cannot be written down, it is not."""
        with suppress(OSError):
            os.utime(self._path(reference))

    def remove(self, reference: Reference) -> bool:
        """Remove the manifest; False where there was none."""
        path = self._path(reference)
        with storage_errors("remove the manifest", StartupFailed):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            # Before its blob goes: after a crash there may be a blob without a manifest, never the reverse.
            fsync_directory(path.parent)
        return True

    def _directories(self) -> list[str]:
        """Those that hold manifests. Text all the way: a `Path` for each of hundreds is half of what reading takes."""
        try:
            with os.scandir(self._root) as entries:
                return [entry.path for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StartupFailed(f"cannot read the directory {self._root}: {error.strerror}") from error

    def _path(self, reference: Reference) -> Path:
        directory, _, rest = str(reference).partition(":")
        return inside(self._root, directory, f"{rest.replace('/', _SLASH)}.json")


def _manifests_in(directory: str) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.path for entry in entries if entry.name.endswith(".json")]


def _name(path: str) -> str:
    """The name that the manifest at this path has to have."""
    directory, _, file = path.rpartition("/")
    return f"{directory.rpartition('/')[2]}:{file.removesuffix('.json').replace(_SLASH, '/')}"


def _load(path: str) -> Manifest | None:
    name = _name(path)
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # see `_directories`
            too_large = os.fstat(file.fileno()).st_size > _MAX_BYTES
            content = b"" if too_large else file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidModel(f"cannot read the manifest of `{shown(name)}`: {error.strerror}") from error
    try:
        if too_large:
            raise ValueError("it is too large")
        manifest = from_json(Manifest, content)
        if manifest.name != name:
            raise ValueError(f"it names `{manifest.name}`")
        if not all(is_sha256(file.sha256) for file in manifest.everything):
            raise ValueError("its digest is not a SHA-256")
        if not all(is_plain_name(file.name) for file in manifest.files):
            raise ValueError("it names a file outside its directory")
    except ValueError as error:
        reason = shown(str(error))
        raise InvalidModel(
            f"the manifest of `{shown(name)}` is damaged: {reason}",
            hint=f"remove it with `llmserve rm {shown(name)}` and pull the model again",
        ) from error
    return manifest


def _sha256_of_lines(lines: Iterable[str]) -> str:
    import hashlib  # It loads OpenSSL, which most commands need not wait for.

    return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()


def is_plain_name(name: str) -> bool:
    """Whether a file's name stays in the directory it is joined to: relative, and without `.` or `..` in it."""
    return "\0" not in name and all(part not in {"", ".", ".."} for part in name.split("/"))
