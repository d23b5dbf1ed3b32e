"""Models that other programs keep on this disk, found without asking those programs and used where they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmserve.errors import InvalidModel, InvalidRequest
from llmserve.store.blobs import is_sha256
from llmserve.store.bounded_json import UnsoundJson, parse_bounded
from llmserve.store.names import LogicalName, parse_name
from llmserve.store.quantizations import is_model_file
from llmserve.store.sources.hub_choice import CONFIG, safetensors_files

_DEPTH_LIMIT = 8
_ENTRIES_LIMIT = 100_000
_MANIFEST_BYTES = 1024 * 1024
_MODEL_LAYER = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """A model to be adopted: its file or directory, the name it gets (None: after its file), its stated SHA-256."""

    path: Path
    name: LogicalName | None = None
    sha256: str | None = None


def find_models(directory: Path) -> tuple[ForeignModel, ...]:
    """Every GGUF file and safetensors directory under `directory`, as LM Studio, Jan and others keep them."""
    found = []
    for folder, names in _walk(directory):
        if CONFIG in names and safetensors_files(names):
            found.append(ForeignModel(folder))
        found.extend(ForeignModel(folder / name) for name in sorted(names) if is_model_file(name))
    return tuple(found)


def _walk(directory: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Folders with the names of their files, links to folders not followed. Raises `InvalidRequest`."""
    seen = 0
    if not directory.is_dir():
        raise InvalidRequest(f"there is no directory {directory}", param="path")
    for folder, folders, names in os.walk(directory):
        seen += len(folders) + len(names)
        if seen > _ENTRIES_LIMIT:
            raise InvalidRequest(f"{directory} has more than {_ENTRIES_LIMIT:,} entries", param="path")
        if len(Path(folder).relative_to(directory).parts) >= _DEPTH_LIMIT:
            folders.clear()
        folders.sort()
        yield Path(folder), tuple(names)


def ollama_directory() -> Path:
    """Where Ollama keeps its models: `$OLLAMA_MODELS`, its user's home, or the Linux service's."""
    if stated := os.environ.get("OLLAMA_MODELS"):
        return Path(stated)
    home = Path.home() / ".ollama" / "models"
    return home if home.is_dir() else Path("/usr/share/ollama/.ollama/models")


def ollama_models(directory: Path) -> tuple[ForeignModel, ...]:
    """The models of an Ollama store, as `ollama-<model>:<tag>`; each is one GGUF blob, named by its SHA-256.

    Those whose weights are no GGUF file are left out. Raises `InvalidRequest` where there is no such store.
    """
    root = directory / "manifests"
    if not root.is_dir():
        raise InvalidRequest(f"there is no Ollama store at {directory}", param="path", hint="set OLLAMA_MODELS")
    found = []
    for folder, names in _walk(root):
        for tag in sorted(names):
            path = folder / tag
            sha256 = _ollama_digest(path)
            blob = directory / "blobs" / f"sha256-{sha256}"
            if sha256 is not None and _is_gguf(blob):
                found.append(ForeignModel(blob, _ollama_name(path.relative_to(root)), sha256))
    return tuple(found)


def _ollama_digest(manifest: Path) -> str | None:
    """The digest of the weights a manifest names, None for what is no manifest of one file of weights."""
    try:
        with manifest.open("rb") as file:
            content: Any = parse_bounded(file.read(_MANIFEST_BYTES), items=10_000)
        layers = [layer for layer in content["layers"] if layer["mediaType"] == _MODEL_LAYER]
        match = _DIGEST.fullmatch(layers[0]["digest"]) if len(layers) == 1 else None
    except (OSError, UnsoundJson, KeyError, TypeError, IndexError):
        return None
    return match[1] if match and is_sha256(match[1]) else None


def _is_gguf(blob: Path) -> bool:
    try:
        with blob.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def _ollama_name(path: Path) -> LogicalName:
    """`ollama-qwen3:8b` of `registry.ollama.ai/library/qwen3/8b`; the owner is kept where it is not `library`."""
    *_, owner, model, tag = ("", "", *path.parts)
    family = model if owner in {"library", ""} else f"{owner}-{model}"
    text = re.sub(r"[^a-z0-9._-]+", "-", f"ollama-{family}".lower()).strip("-._")
    try:
        name = parse_name(f"{text}:{re.sub(r'[^a-z0-9._-]+', '-', tag.lower())}")
    except InvalidRequest as error:
        raise InvalidModel(f"the Ollama model `{path}` has a name that cannot be used here") from error
    if not isinstance(name, LogicalName):
        raise InvalidModel(f"the Ollama model `{path}` has a name that cannot be used here")
    return name
