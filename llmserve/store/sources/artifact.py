"""What a source hands over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmserve.store.files import FileIdentity


@dataclass(frozen=True, slots=True)
class Artifact:
    """A complete file whose SHA-256 was computed from its bytes on this disk.

    `source` says where it came from, as exactly as is known; `owned` that it is a blob of the store.
    """

    path: Path
    sha256: str
    identity: FileIdentity
    source: str
    owned: bool
