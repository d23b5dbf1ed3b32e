"""Pinned models: those that stay when others are removed to make room."""

from __future__ import annotations

from dataclasses import replace

from llmserve.store.store import Store


def set_pinned(store: Store, name: str, *, pinned: bool) -> str:
    """Pin a model or let it go; returns its full name. Raises `ModelNotFound`, and `InvalidModel` where its manifest
    cannot be read."""
    reference = store.reference(name)
    if not store.home.is_dir():
        raise store.not_found(name, reference)
    store.prepare()
    with store.locks.held("model", str(reference)):
        manifest = store.manifests.read(reference)
        if manifest is None:
            raise store.not_found(name, reference)
        if manifest.pinned != pinned:
            # Being pinned is no use of a model, so the time of its last use stays.
            used_at = store.manifests.used_at(reference)
            store.manifests.write(reference, replace(manifest, pinned=pinned), used_at=used_at)
        return manifest.name
