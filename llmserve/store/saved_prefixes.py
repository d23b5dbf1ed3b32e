"""What workers keep of users' texts from run to run, as far as it must go with its model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from llmserve.store.files import inside
from llmserve.store.manifests import Manifest


class SavedPrefixes:
    """prefixes/<digest of the model>/: written by workers (`llama/prefix_archive.py`), and removed with the model."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, manifest: Manifest) -> Path:
        return inside(self._root, manifest.digest)

    def unused(self, manifests: Iterable[Manifest]) -> Iterator[Path]:
        """The directories of models that are none of these."""
        digests = {manifest.digest for manifest in manifests}
        return (path for path in sorted(self._root.glob("*")) if path.is_dir() and path.name not in digests)

    def remove_unless_used(self, manifest: Manifest, others: Iterable[Manifest]) -> int:
        """Remove what was kept for a model that none of `others` is another name of; the bytes freed."""
        if any(other.digest == manifest.digest for other in others):
            return 0
        import shutil

        directory = self.directory(manifest)
        freed = self.size_bytes(directory)
        shutil.rmtree(directory, ignore_errors=True)
        return freed

    def size_bytes(self, directory: Path | None = None) -> int:
        """What one model's directory takes, or all of them."""
        files = (directory or self._root).rglob("*.prefix")
        return sum(path.lstat().st_size for path in files)
