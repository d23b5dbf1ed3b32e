"""What goes with a model: the files that its pull brought and that no other model uses, and its saved prefixes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from llmserve.store.blobs import Blobs
from llmserve.store.manifests import Manifest, Manifests
from llmserve.store.saved_prefixes import SavedPrefixes
from llmserve.store.views import Views


class Removal:
    """Frees what the manifests no longer use. Blocking; a file of the user's own is never touched."""

    def __init__(self, blobs: Blobs, views: Views, manifests: Manifests, prefixes: SavedPrefixes) -> None:
        self._blobs = blobs
        self._views = views
        self._manifests = manifests
        self._prefixes = prefixes

    def free_all(self, manifest: Manifest) -> int:
        """Remove what only this model, whose manifest is gone, needed; the bytes freed."""
        freed = self._free_cached(manifest) if manifest.fetched else 0
        with ExitStack() as stack:
            for sha256 in manifest.blobs:
                stack.enter_context(self._blobs.lock(sha256))
            others = self._manifests.read_all()[0]
            self._views.remove_unless_used(manifest, others)
            freed += self._prefixes.remove_unless_used(manifest, others)
            return freed + sum(self.free(sha256) for sha256 in manifest.blobs)

    def discard(self, manifest: Manifest) -> None:
        """Remove what a refused pull brought. The caller holds the locks of its blobs."""
        if manifest.path is None:
            self._views.remove_unless_used(manifest, self._manifests.read_all()[0])
            for file in manifest.files:
                self.free(file.sha256)
        elif manifest.fetched:
            self._free_cached(manifest)

    def free(self, sha256: str) -> int:
        """Remove a blob that no manifest uses; the bytes freed. The caller holds its lock."""
        manifests, _ = self._manifests.read_all()
        if any(sha256 in manifest.blobs for manifest in manifests):
            return 0
        return self._blobs.remove(sha256)

    def _free_cached(self, manifest: Manifest) -> int:
        """Remove the files that a pull put into the Hugging Face cache and that no other model uses."""
        from llmserve.store.sources.hub_cache import cache_of

        manifests, _ = self._manifests.read_all()
        used = {file.path for other in manifests if other.name != manifest.name for file in other.files}
        freed = 0
        for file in manifest.files:
            if file.path is not None and file.path not in used and (cache := cache_of(Path(file.path))):
                freed += cache.forget(Path(file.path))
        return freed
