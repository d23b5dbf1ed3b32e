"""Models in one file, to be carried where no network is: a tar of their digests, then of their bytes.

    llmserve-bundle.json        what is in it: names, sources, licences, and size and SHA-256 of every file
    blobs/sha256-<hex>          each file once, in the order of the list

The tar is read as a stream and nothing is ever extracted to a path it names: a member is a number of bytes that must
have the digest the list states.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from llmserve.errors import Conflict, InvalidModel, InvalidRequest
from llmserve.store.adapter_names import are_sound_names
from llmserve.store.blobs import Blob, is_sha256
from llmserve.store.budget import Budget, make_room
from llmserve.store.defaults import ChatDefaults
from llmserve.store.files import identity_of, rename_durably, require_space, storage_errors
from llmserve.store.manifests import Adapter, Companion, Created, Manifest, is_plain_name
from llmserve.store.names import LogicalName, Reference, parse_name, shown
from llmserve.store.progress import PullProgress, Report, ignore_progress
from llmserve.store.registration import register
from llmserve.store.scratch import Scratch, scratch
from llmserve.store.sources.artifact import Artifact, ArtifactFile
from llmserve.store.store import Store
from llmserve.types import InstalledModel, ModelFormat, from_json, to_json

_VERSION = 1
_LIST = "llmserve-bundle.json"
_LIST_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_MODELS_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class BundledFile:
    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BundledAdapter:
    file: BundledFile
    scale: float
    name: str | None = None
    default: bool = False


@dataclass(frozen=True, slots=True)
class BundledModel:
    name: str
    format: ModelFormat
    quantization: str
    source: str
    license: str | None
    files: tuple[BundledFile, ...]
    defaults: ChatDefaults | None = None
    template: BundledFile | None = None
    adapters: tuple[BundledAdapter, ...] = ()

    @property
    def additions(self) -> tuple[BundledFile, ...]:
        return (*((self.template,) if self.template else ()), *(adapter.file for adapter in self.adapters))

    @property
    def everything(self) -> tuple[BundledFile, ...]:
        return (*self.files, *self.additions)


@dataclass(frozen=True, slots=True)
class Bundle:
    version: int
    models: tuple[BundledModel, ...]

    @property
    def blobs(self) -> dict[str, BundledFile]:
        """Every file once, by its digest."""
        return {file.sha256: file for model in self.models for file in model.everything}

    def called(self, file: BundledFile) -> str:
        """What to call a file, of which many models may have one of that name."""
        of = ", ".join(f"`{shown(model.name)}`" for model in self.models if file in model.everything)
        return f"`{shown(file.name)}` of {of}"


def export_models(store: Store, names: tuple[str, ...], target: Path, progress: Report | None = None) -> Bundle:
    """Write installed models into the new file `target`, every byte checked on the way.

    Raises `ModelNotFound`, `InvalidModel` for a file that is no longer right, `Conflict` where `target` exists, and
    `InsufficientStorage`. There is no `target` then.
    """
    report = progress or ignore_progress
    manifests = [store.manifest(name) for name in names]
    bundle = Bundle(_VERSION, tuple(_described(manifest) for manifest in manifests))
    paths = {file.sha256: store.file_path(file) for manifest in manifests for file in manifest.everything}
    if target.exists():
        raise Conflict(f"{target} exists already", param="file", hint="choose another file, or remove it")
    total = sum(file.size_bytes for file in bundle.blobs.values())
    with storage_errors("write the bundle"):
        require_space(target.absolute().parent, total)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            with temporary.open("xb") as file:
                _write(file, bundle, paths, lambda done: report(PullProgress("publishing", done, total)))
            rename_durably(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return bundle


def _described(manifest: Manifest) -> BundledModel:
    return BundledModel(
        name=manifest.name,
        format=manifest.format,
        quantization=manifest.quantization,
        source=manifest.source,
        license=manifest.license,
        files=tuple(_listed(file) for file in manifest.files),
        defaults=manifest.defaults,
        template=_listed(manifest.template) if manifest.template else None,
        adapters=tuple(
            BundledAdapter(_listed(adapter.file), adapter.scale, adapter.name, adapter.default)
            for adapter in manifest.adapters
        ),
    )


def _listed(file: Companion) -> BundledFile:
    return BundledFile(file.name, file.sha256, file.identity.size_bytes)


class _Hashed(io.RawIOBase):
    """A file that is hashed while the tar reads it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _write(file: IO[bytes], bundle: Bundle, paths: dict[str, Path], tell: Callable[[int], None]) -> None:
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK_BYTES) as archive:
        content = to_json(bundle, indent=2).encode()
        archive.addfile(_member(_LIST, len(content)), io.BytesIO(content))
        done = 0
        for sha256, listed in bundle.blobs.items():
            with paths[sha256].open("rb") as source:
                hashed = _Hashed(source)
                archive.addfile(_member(f"blobs/sha256-{sha256}", listed.size_bytes), hashed)
            if hashed.digest.hexdigest() != sha256:
                raise InvalidModel(f"`{listed.name}` is not what it was when it was installed", hint="llmserve verify")
            done += listed.size_bytes
            tell(done)
    file.flush()
    os.fsync(file.fileno())


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = 0o644
    return member


def import_bundle(
    store: Store, path: Path, progress: Report | None = None, budget: Budget | None = None
) -> tuple[InstalledModel, ...]:
    """Install every model of a bundle; all files are verified before the first becomes visible.

    What it brings is within the `budget`, for which other models may have to go first. Raises `InvalidModel` naming the
    file that is not what the list says, `Conflict` for a name that means another model here, `InsufficientStorage`.
    """
    report = progress or ignore_progress
    store.prepare()
    with scratch(store.home / "scratch") as area, _reading(path) as archive:
        bundle = _read_list(archive, path)
        references = {model.name: _checked(model) for model in bundle.models}
        with ExitStack() as stack:
            # In one order everywhere, so that two imports never wait in a circle.
            for name in sorted(references):
                stack.enter_context(store.locks.held("model", name))
            for model in bundle.models:
                _require_same(store, references[model.name], model)
            if budget is not None:
                new = [
                    file.size_bytes for sha256, file in bundle.blobs.items() if not store.blobs.path(sha256).exists()
                ]
                make_room(store, sum(new), budget, keep=tuple(references))
            received = _receive(archive, bundle, area, report)
            for sha256 in _lock_order(bundle):
                stack.enter_context(store.blobs.lock(sha256))
            blobs = {sha256: store.blobs.put(blob) for sha256, blob in received.items()}
            return tuple(
                register(store, references[model.name], _artifact(model, blobs), report, _created(model, blobs))
                for model in bundle.models
            )


@contextmanager
def _reading(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|", bufsize=_CHUNK_BYTES) as archive:
            yield archive
    except FileNotFoundError:
        raise InvalidRequest(f"there is no file {path}", param="file") from None
    except tarfile.TarError as error:
        raise InvalidModel(f"{path} is no bundle, or an incomplete one: {shown(str(error))}") from error
    except OSError as error:
        raise InvalidModel(f"cannot read {path}: {error.strerror}") from error


def _read_list(archive: tarfile.TarFile, path: Path) -> Bundle:
    member = archive.next()
    if member is None or member.name != _LIST or not member.isreg() or member.size > _LIST_BYTES:
        raise InvalidModel(f"{path} is no bundle: it does not begin with {_LIST}")
    opened = archive.extractfile(member)
    content = opened.read() if opened else b""
    try:
        bundle = from_json(Bundle, content)
    except ValueError as error:
        raise InvalidModel(f"{_LIST} is damaged: {shown(str(error))}") from error
    if bundle.version != _VERSION or not 0 < len(bundle.models) <= _MODELS_LIMIT:
        raise InvalidModel(f"{path} was written by another version of llmserve")
    return bundle


def _checked(model: BundledModel) -> Reference:
    """The name of a model of the list, whose every text is sound. Raises `InvalidModel`."""
    try:
        reference = parse_name(model.name)
    except InvalidRequest as error:
        raise InvalidModel(f"{_LIST}: {error.message}") from error
    sound = all(
        is_plain_name(file.name) and is_sha256(file.sha256) and file.size_bytes > 0 for file in model.everything
    )
    sound &= are_sound_names(model.adapters)
    # `@` in other names is a revision's.
    sound &= isinstance(reference, LogicalName) or all(adapter.name is None for adapter in model.adapters)
    if str(reference) != model.name or not model.files or not sound:
        raise InvalidModel(f"{_LIST}: what it says of `{shown(model.name)}` makes no sense")
    return reference


def _require_same(store: Store, reference: Reference, model: BundledModel) -> None:
    """Refuse to give a name that is in use another meaning."""
    try:
        known = store.manifests.read(reference)
    except InvalidModel:
        return
    if known is not None and {file.sha256 for file in known.everything} != {file.sha256 for file in model.everything}:
        raise Conflict(
            f"there is another model `{model.name}` already",
            param="name",
            hint=f"`llmserve rm {model.name}` removes it",
        )


def _receive(archive: tarfile.TarFile, bundle: Bundle, area: Scratch, report: Report) -> dict[str, Blob]:
    """Every blob of the list in the scratch directory, its digest checked."""
    listed = bundle.blobs
    total = sum(file.size_bytes for file in listed.values())
    require_space(area.path, total)
    received: dict[str, Blob] = {}
    done = 0
    while (member := archive.next()) is not None:
        sha256 = member.name.removeprefix("blobs/sha256-")
        file = listed.get(sha256)
        if file is None or sha256 == member.name or sha256 in received or not member.isreg():
            raise InvalidModel(f"the bundle holds {shown(member.name)}, which its list does not name")
        if member.size != file.size_bytes:
            which = bundle.called(file)
            raise InvalidModel(f"{which} has {member.size} bytes in the bundle instead of {file.size_bytes}")
        received[sha256] = _received(archive, member, bundle, file, area)
        done += file.size_bytes
        report(PullProgress("verifying", done, total))
    if missing := [file for sha256, file in listed.items() if sha256 not in received]:
        raise InvalidModel(f"the bundle is incomplete: {bundle.called(missing[0])} is missing")
    return received


def _received(
    archive: tarfile.TarFile, member: tarfile.TarInfo, bundle: Bundle, file: BundledFile, area: Scratch
) -> Blob:
    opened = archive.extractfile(member)
    digest = hashlib.sha256()
    path = area.path / file.sha256
    with storage_errors("write the model"), path.open("xb") as target:
        os.fchmod(target.fileno(), 0o600)
        while opened is not None and (chunk := opened.read(_CHUNK_BYTES)):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
        identity = identity_of(os.fstat(target.fileno()))
    if digest.hexdigest() != file.sha256 or identity.size_bytes != file.size_bytes:
        raise InvalidModel(
            f"{bundle.called(file)} in the bundle is damaged: its SHA-256 is {digest.hexdigest()}",
            hint="copy the bundle once more from where it was written",
        )
    return Blob(path, file.sha256, identity)


def _lock_order(bundle: Bundle) -> list[str]:
    """As `Manifest.blobs` has it: all weights, then all adapters, then all templates."""
    weights = sorted({file.sha256 for model in bundle.models for file in model.files})
    adapters = sorted({adapter.file.sha256 for model in bundle.models for adapter in model.adapters})
    return list(dict.fromkeys([*weights, *adapters, *sorted(bundle.blobs)]))


def _created(model: BundledModel, blobs: dict[str, Blob]) -> Created:
    def companion(file: BundledFile) -> Companion:
        return Companion(file.name, file.sha256, blobs[file.sha256].identity)

    return Created(
        defaults=model.defaults,
        template=companion(model.template) if model.template else None,
        adapters=tuple(
            Adapter(companion(adapter.file), adapter.scale, adapter.name, adapter.default) for adapter in model.adapters
        ),
    )


def _artifact(model: BundledModel, blobs: dict[str, Blob]) -> Artifact:
    files = tuple(
        ArtifactFile(file.name, blobs[file.sha256].path, file.sha256, blobs[file.sha256].identity)
        for file in model.files
    )
    return Artifact(files, model.source, owned=True, license=model.license)
