"""What a source hands over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmserve.store.files import FileIdentity


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """A complete file whose SHA-256 was computed from its bytes on this disk; `name` is relative to the model's."""

    name: str
    path: Path
    sha256: str
    identity: FileIdentity


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model: its files, the one to be loaded first (of safetensors, `config.json`).

    `source` says where it came from, as exactly as is known; `owned` that the files are blobs of the store; `fetched`
    that this pull brought them, so that nobody misses them when the model is removed.
    """

    files: tuple[ArtifactFile, ...]
    source: str
    owned: bool
    license: str | None = None
    fetched: bool = False

    @property
    def main(self) -> ArtifactFile:
        return self.files[0]

    @property
    def size_bytes(self) -> int:
        return sum(file.identity.size_bytes for file in self.files)
