"""Reading every byte of a model again, and putting right what is not what it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmserve.errors import Conflict, InvalidModel, LlmserveError
from llmserve.store.blobs import Expected
from llmserve.store.files import FileIdentity, sha256_of
from llmserve.store.manifests import Companion, Manifest
from llmserve.store.names import LogicalName, Origin, Reference, parse_name, parse_url
from llmserve.store.options import PullOptions
from llmserve.store.origins import Wanted, fetched
from llmserve.store.progress import PullProgress, Report, ignore_progress
from llmserve.store.store import Store


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a model: `problem` in a sentence, None if every byte is right; `repaired` that it now is."""

    name: str
    size_bytes: int
    problem: str | None
    repaired: bool = False


def verify(store: Store, name: str, progress: Report | None = None, *, repair: bool = False) -> Verdict:
    """Hash every file of the model and compare. A model with a wrong one is not served from then on.

    With `repair` its files are fetched again, exactly those of the manifest: same commit, same digests. Raises
    `ModelNotFound`, and with `repair` what a pull raises; `Conflict` for a file of the user's own, which has no source.
    """
    report = progress or ignore_progress
    reference = store.reference(name)
    store.prepare()
    with store.locks.held("model", str(reference)):
        manifest = store.manifests.read(reference)
        if manifest is None:
            raise store.not_found(name, reference)
        problem, identities = _check(store, manifest, report)
        if problem is None:
            _record(store, reference, manifest, identities)
            return Verdict(manifest.name, manifest.size_bytes, None)
        store.manifests.write(reference, replace(manifest, damage=problem))
        if not repair:
            return Verdict(manifest.name, manifest.size_bytes, problem)
        _repair(store, reference, manifest, report)
        return Verdict(manifest.name, manifest.size_bytes, problem, repaired=True)


def _check(store: Store, manifest: Manifest, report: Report) -> tuple[str | None, list[FileIdentity]]:
    """What is wrong with the first wrong file, and the identities of those that were read."""
    total, before = manifest.size_bytes, 0
    identities: list[FileIdentity] = []
    for file in manifest.files:

        def tell(progress: PullProgress, before: int = before) -> None:
            report(PullProgress("verifying", before + progress.completed, total))

        which = f" (`{file.name}`)" if manifest.companions else ""
        try:
            sha256, identity = sha256_of(store.file_path(file).resolve(), tell)
        except InvalidModel:
            return f"has a file that cannot be read{which}", identities
        if sha256 != file.sha256:
            return f"has another SHA-256 than when it was installed{which}", identities
        identities.append(identity)
        before += file.identity.size_bytes
    return None, identities


def _record(store: Store, reference: Reference, manifest: Manifest, identities: list[FileIdentity]) -> None:
    """Remember that the files are right as they are now: one that was only copied or touched is served again."""
    main, *others = identities
    companions = tuple(
        replace(companion, identity=identity) for companion, identity in zip(manifest.companions, others, strict=True)
    )
    sound = replace(manifest, identity=main, companions=companions, damage=None)
    if sound != manifest:
        store.manifests.write(reference, sound)


def _repair(store: Store, reference: Reference, manifest: Manifest, report: Report) -> None:
    origin = _origin(manifest)
    if origin is None:
        raise Conflict(
            f"`{manifest.name}` {_whose(manifest)}, so it cannot be fetched again",
            param="model",
            hint=f"put the right file back, or `llmserve rm {manifest.name}`",
        )
    for file in manifest.files:
        _drop_if_wrong(store, file)
    expected = Expected(None, None if manifest.companions else manifest.sha256)
    with fetched(Wanted(reference, origin, expected), PullOptions(), store.blobs, report) as artifact:
        artifact = replace(artifact, fetched=artifact.fetched or manifest.fetched)
        installed = store.register(reference, artifact, report, defaults=manifest.defaults)
    if installed.sha256 != manifest.digest:
        raise InvalidModel(f"the source of `{manifest.name}` gives other files than before", hint="do not trust it")


def _origin(manifest: Manifest) -> Origin | None:
    if url := parse_url(manifest.source):
        return url
    try:
        origin = parse_name(manifest.source)
    except LlmserveError:
        return None
    return None if isinstance(origin, LogicalName) else origin


def _whose(manifest: Manifest) -> str:
    return "came in a bundle" if manifest.path is None else "is a file of your own"


def _drop_if_wrong(store: Store, file: Companion) -> None:
    """Remove a file that is not what it should be; only blobs and files of the Hugging Face cache get this far."""
    path = store.file_path(file)
    try:
        if sha256_of(path.resolve(), ignore_progress)[0] == file.sha256:
            return
    except InvalidModel:
        pass
    target: Path = path.resolve()
    target.unlink(missing_ok=True)
