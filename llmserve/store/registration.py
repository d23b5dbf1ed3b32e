"""How verified files become a model of the store."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from llmserve.errors import InvalidModel
from llmserve.store.files import current_identity
from llmserve.store.inspection import inspect_model
from llmserve.store.manifests import Companion, Created, Manifest
from llmserve.store.names import Reference
from llmserve.store.progress import PullProgress, Report
from llmserve.store.sources.artifact import Artifact
from llmserve.store.store import Store
from llmserve.types import InstalledModel


def register(
    store: Store, reference: Reference, artifact: Artifact, report: Report, created: Created | None = None
) -> InstalledModel:
    """Make verified files visible under a name, unless the inspector refuses them. The caller holds its lock.

    `created` is what the model has beside these files; what its template needs is a blob whose lock is held.
    `report` may still stop it: it is called before anything becomes visible.
    """
    report(PullProgress("publishing", artifact.size_bytes, artifact.size_bytes))
    created = created or Created()
    manifest = _manifest(reference, artifact)
    try:
        if artifact.owned and manifest.companions:
            store.views.make(manifest)
        info = inspect_model(store.load_path(manifest))
    except InvalidModel:
        store.removal.discard(manifest)
        raise
    if any(current_identity(file.path) != file.identity for file in artifact.files):
        raise InvalidModel("the file changed while it was read", hint="try again when nothing writes to it")
    manifest = replace(
        manifest,
        format=info.format,
        quantization=info.quantization,
        license=artifact.license or info.license,
        defaults=created.defaults,
        template=created.template,
        adapters=created.adapters,
        pinned=_is_pinned(store, reference),
    )
    store.manifests.write(reference, manifest)
    return store.installed(manifest)


def discard(store: Store, reference: Reference, artifact: Artifact) -> None:
    """Remove the files of a pull that is refused. The caller holds the locks of its blobs."""
    store.removal.discard(_manifest(reference, artifact))


def _manifest(reference: Reference, artifact: Artifact) -> Manifest:
    def path(file: Path) -> str | None:
        return None if artifact.owned else str(file)

    main, *others = artifact.files
    return Manifest(
        name=str(reference),
        format="safetensors" if main.name.endswith(".json") else "gguf",
        quantization="",
        sha256=main.sha256,
        source=artifact.source,
        pulled_at=time.time(),
        identity=main.identity,
        path=path(main.path),
        file=main.name.rpartition("/")[2] if others else None,
        companions=tuple(
            Companion(file.name.rpartition("/")[2], file.sha256, file.identity, path(file.path)) for file in others
        ),
        fetched=artifact.fetched,
    )


def _is_pinned(store: Store, reference: Reference) -> bool:
    """Whether the model is to stay, which a repair or another pull does not change."""
    try:
        known = store.manifests.read(reference)
    except InvalidModel:
        return False
    return known is not None and known.pinned
