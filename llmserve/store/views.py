"""Directories in which the blobs of a model that has several files have their names, as engines want them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from llmserve.store.blobs import Blobs
from llmserve.store.files import fsync_directory, inside, private_directory, storage_errors
from llmserve.store.manifests import Manifest
from llmserve.store.scratch import scratch


class Views:
    """views/<digest of the files>/<file> -> ../../blobs/sha256-<hex>: links, so that a file is on the disk once."""

    def __init__(self, root: Path, scratch_root: Path, blobs: Blobs) -> None:
        self.root = root
        self._scratch_root = scratch_root
        self._blobs = blobs

    def file(self, manifest: Manifest) -> Path:
        """Where the main file of a model is under its name."""
        return inside(self.root, manifest.files_digest, manifest.files[0].name)

    def make(self, manifest: Manifest) -> None:
        """Make the directory of a model whose blobs are all here. Raises `InsufficientStorage` or `PullFailed`."""
        target = inside(self.root, manifest.files_digest)
        with storage_errors("publish the model"), scratch(self._scratch_root) as area:
            private_directory(self.root)
            made = area.path / "view"
            made.mkdir(mode=0o700)
            for file in manifest.files:
                link = inside(made, file.name)
                link.parent.mkdir(mode=0o700, exist_ok=True)
                link.symlink_to(os.path.relpath(self._blobs.path(file.sha256), (target / file.name).parent))
            fsync_directory(made)
            if not target.exists():
                made.rename(target)
                fsync_directory(self.root)

    def remove(self, manifest: Manifest) -> None:
        import shutil

        shutil.rmtree(inside(self.root, manifest.files_digest), ignore_errors=True)

    def remove_unless_used(self, manifest: Manifest, others: Iterable[Manifest]) -> None:
        if manifest.companions and all(
            other.files_digest != manifest.files_digest for other in others if other.path is None
        ):
            self.remove(manifest)
