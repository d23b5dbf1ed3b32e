"""Manifests: one small JSON file per installed model, the only thing that makes a model visible.

manifests/<family>/<tag>.json            logical names
manifests/hf/<readable>-<hash>.json      names whose own text is no file name (likewise `pypi/`)
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from llmserve.errors import InvalidModel
from llmserve.store.blobs import is_sha256
from llmserve.store.files import FileIdentity, inside, private_directory, storage_errors, write_atomically
from llmserve.store.names import HubReference, LogicalName, Reference, shown
from llmserve.types import ModelFormat, from_json, to_json

_MAX_BYTES = 64 * 1024


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

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, reference: Reference) -> Manifest | None:
        """The manifest of a model, None where it is not installed. Raises `InvalidModel` for a damaged one."""
        path = self._path(reference)
        manifest = _load(path, str(reference))
        if manifest is not None and manifest.name != str(reference):
            raise InvalidModel(
                f"the manifest of `{reference}` is damaged: it names another model", hint=_repair_hint(str(reference))
            )
        return manifest

    def read_all(self) -> tuple[tuple[Manifest, ...], tuple[DamagedModel, ...]]:
        """Every manifest, and what could not be read, each sorted by name."""
        manifests: list[Manifest] = []
        damaged: list[DamagedModel] = []
        for path in sorted(self._root.glob("*/*.json")):
            name = f"{path.parent.name}:{path.stem}"
            try:
                manifest = _load(path, name)
            except InvalidModel as error:
                damaged.append(DamagedModel(name, error.message))
                continue
            if manifest is not None:
                manifests.append(manifest)
        return tuple(sorted(manifests, key=lambda manifest: manifest.name)), tuple(damaged)

    def write(self, reference: Reference, manifest: Manifest) -> None:
        path = self._path(reference)
        private_directory(path.parent)
        with storage_errors("write the manifest"):
            write_atomically(path, to_json(manifest, indent=2).encode())

    def remove(self, reference: Reference) -> bool:
        """Remove the manifest; False where there was none."""
        try:
            self._path(reference).unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, reference: Reference) -> Path:
        if isinstance(reference, LogicalName):
            return inside(self._root, reference.family, f"{reference.tag}.json")
        text = str(reference)
        kind = "hf" if isinstance(reference, HubReference) else "pypi"
        readable = re.sub(r"[^A-Za-z0-9]+", "-", text.partition(":")[2])[:60].strip("-")
        return inside(self._root, kind, f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json")


def _load(path: Path, name: str) -> Manifest | None:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidModel(f"cannot read the manifest of `{name}`: {error.strerror}") from error
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError("it is too large")
        manifest = from_json(Manifest, content)
        if not is_sha256(manifest.sha256):
            raise ValueError("its digest is not a SHA-256")
    except ValueError as error:
        # Only the first line: pydantic's messages quote the content after it.
        reason = shown(str(error).partition("\n")[0])
        raise InvalidModel(f"the manifest of `{name}` is damaged: {reason}", hint=_repair_hint(name)) from error
    return manifest


def _repair_hint(name: str) -> str:
    return f"remove it with `llmserve rm {name}` and pull the model again"
