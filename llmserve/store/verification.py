"""Reading every byte of a model again, and putting right what is not what it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from llmserve.errors import Conflict, InvalidModel, LlmserveError
from llmserve.store.blobs import Expected
from llmserve.store.files import FileIdentity, sha256_of
from llmserve.store.manifests import Companion, Manifest
from llmserve.store.names import QUANTIZED, Reference
from llmserve.store.options import PullOptions
from llmserve.store.origins import Wanted, fetched, origin_of
from llmserve.store.progress import PullProgress, Report, ignore_progress
from llmserve.store.registration import register
from llmserve.store.store import Store


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a model: `problem` in a sentence, None if every byte is right; `repaired` that it now is.

    `failure` is why it could not be repaired, where that was tried.
    """

    name: str
    size_bytes: int
    problem: str | None
    repaired: bool = False
    failure: str | None = None


def verify_each(store: Store, names: Iterable[str], report: Report, *, repair: bool) -> Iterator[Verdict]:
    """As `verify`, one after the other: what becomes of one model changes nothing for the next.

    Raises `ModelNotFound`.
    """
    for name in names:
        try:
            verdict, _ = _verified(store, name, report, repair=repair)
        except InvalidModel as error:
            verdict = Verdict(name, 0, error.explained)
        yield verdict


def verify(store: Store, name: str, progress: Report | None = None, *, repair: bool = False) -> Verdict:
    """Hash every file of the model and compare. A model with a wrong one is not served from then on.

    With `repair` its files are fetched again, exactly those of the manifest: same commit, same digests. Raises
    `ModelNotFound`, and with `repair` what a pull raises; `Conflict` for a file of the user's own, which has no source.
    """
    verdict, failure = _verified(store, name, progress or ignore_progress, repair=repair)
    if failure is not None:
        raise failure
    return verdict


def _verified(store: Store, name: str, report: Report, *, repair: bool) -> tuple[Verdict, LlmserveError | None]:
    """The verdict of `verify`, and why the model could not be repaired."""
    reference = store.reference(name)
    store.prepare()
    with store.locks.held("model", str(reference)):
        manifest = store.manifests.read(reference)
        if manifest is None:
            raise store.not_found(name, reference)
        problem, identities = _check(store, manifest, report)
        verdict = Verdict(manifest.name, manifest.size_bytes, problem)
        if problem is None:
            _record(store, reference, manifest, identities)
            return verdict, None
        store.manifests.write(reference, replace(manifest, damage=problem))
        if not repair:
            return verdict, None
        try:
            _repair(store, reference, manifest, report)
        except LlmserveError as error:
            return replace(verdict, failure=error.explained), error
        return replace(verdict, repaired=True), None


def _check(store: Store, manifest: Manifest, report: Report) -> tuple[str | None, list[FileIdentity]]:
    """What is wrong with the first wrong file, and the identities of those that were read."""
    total, before = manifest.size_bytes, 0
    identities: list[FileIdentity] = []
    for file in manifest.everything:

        def tell(progress: PullProgress, before: int = before) -> None:
            report(PullProgress("verifying", before + progress.completed, total))

        which = f" (`{file.name}`)" if len(manifest.everything) > 1 else ""
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
    left = iter(identities)
    # In the order of `everything`.
    sound = replace(
        manifest,
        identity=next(left),
        companions=tuple(replace(companion, identity=next(left)) for companion in manifest.companions),
        template=replace(manifest.template, identity=next(left)) if manifest.template else None,
        adapters=tuple(
            replace(adapter, file=replace(adapter.file, identity=next(left))) for adapter in manifest.adapters
        ),
        damage=None,
    )
    if sound != manifest:
        store.manifests.write(reference, sound)


def _repair(store: Store, reference: Reference, manifest: Manifest, report: Report) -> None:
    origin = origin_of(manifest.source)
    if origin is None:
        raise Conflict(
            f"`{manifest.name}` {_whose(manifest)}, so it cannot be fetched again",
            param="model",
            hint=f"put the right file back, or `llmserve rm {manifest.name}`",
        )
    for file in manifest.additions:
        if not _is_right(store, file):
            raise Conflict(
                f"`{file.name}` of `{manifest.name}` is damaged and has no source to be fetched from",
                param="model",
                hint=f"`llmserve rm {manifest.name}`, then create it again",
            )
    for file in manifest.files:
        # Only blobs and files of the Hugging Face cache get this far.
        if not _is_right(store, file):
            store.file_path(file).resolve().unlink(missing_ok=True)
    expected = Expected(None, None if manifest.companions else manifest.sha256)
    with fetched(Wanted(reference, origin, expected), PullOptions(), store.blobs, report) as artifact:
        artifact = replace(artifact, fetched=artifact.fetched or manifest.fetched)
        installed = register(store, reference, artifact, report, manifest.created)
    if installed.sha256 != manifest.digest:
        raise InvalidModel(f"the source of `{manifest.name}` gives other files than before", hint="do not trust it")


def _whose(manifest: Manifest) -> str:
    if manifest.source.startswith(QUANTIZED):
        return "was quantized here"
    return "came in a bundle" if manifest.path is None else "is a file of your own"


def _is_right(store: Store, file: Companion) -> bool:
    try:
        return sha256_of(store.file_path(file).resolve(), ignore_progress)[0] == file.sha256
    except InvalidModel:
        return False
