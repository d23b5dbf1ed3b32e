"""Manifests: one small JSON file per installed model, the only thing that makes a model visible.

manifests/<family>/<tag>.json            logical names
manifests/hf/<readable>-<hash>.json      names whose own text is no file name (likewise `pypi/`)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmserve.errors import InvalidModel, StartupFailed
from llmserve.store.blobs import is_sha256
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
from llmserve.types import ModelFormat, from_json, to_json

_MAX_BYTES = 64 * 1024
_SLASH = "%2F"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was installed under `name`, and the identity its file had when its SHA-256 was checked.

    `path` is None for a blob of this store, which is found by its digest; otherwise it is the absolute path of a file
    that is not the store's own and is never deleted by it.
    """

    name: str
    format: ModelFormat
    quantization: str
    sha256: str
    source: str
    pulled_at: float
    identity: FileIdentity
    path: str | None = None


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
        return _load(self._path(reference))

    def read_all(self) -> tuple[tuple[Manifest, ...], tuple[DamagedModel, ...]]:
        """Every manifest, and what could not be read, each sorted by name."""
        manifests: list[Manifest] = []
        damaged: list[DamagedModel] = []
        for path in self._root.glob("*/*.json"):
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

    def write(self, reference: Reference, manifest: Manifest) -> None:
        """Make the model visible under its name. Raises `InsufficientStorage` or `PullFailed`."""
        path = self._path(reference)
        private_directory(path.parent)
        with storage_errors("write the manifest"), scratch(self._scratch_root) as area:
            temporary = area.path / "manifest"
            write_durably(temporary, to_json(manifest, indent=2).encode())
            rename_durably(temporary, path)

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

    def _path(self, reference: Reference) -> Path:
        directory, _, rest = str(reference).partition(":")
        return inside(self._root, directory, f"{rest.replace('/', _SLASH)}.json")


def _name(path: Path) -> str:
    return f"{path.parent.name}:{path.stem.replace(_SLASH, '/')}"


def _load(path: Path) -> Manifest | None:
    name = _name(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidModel(f"cannot read the manifest of `{shown(name)}`: {error.strerror}") from error
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError("it is too large")
        manifest = from_json(Manifest, content)
        if manifest.name != name:
            raise ValueError(f"it names `{manifest.name}`")
        if not is_sha256(manifest.sha256):
            raise ValueError("its digest is not a SHA-256")
    except ValueError as error:
        # Only the first line: pydantic's messages quote the content after it.
        reason = shown(str(error).partition("\n")[0])
        raise InvalidModel(
            f"the manifest of `{shown(name)}` is damaged: {reason}",
            hint=f"remove it with `llmserve rm {shown(name)}` and pull the model again",
        ) from error
    return manifest
