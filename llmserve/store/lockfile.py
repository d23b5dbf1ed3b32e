"""The lock file: which models exactly, so that another machine and another day get the very same bytes.

It is JSON, written in one order and without a date, so that it changes when a model does and not before.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from llmserve.errors import InvalidRequest, SettingsError
from llmserve.settings import Settings
from llmserve.store.adapter_names import are_sound_names
from llmserve.store.blobs import is_sha256
from llmserve.store.chat_templates import check_template
from llmserve.store.defaults import ChatDefaults
from llmserve.store.files import rename_durably, storage_errors, write_durably
from llmserve.store.manifests import Companion, Manifest, is_plain_name
from llmserve.store.names import HubReference, parse_name, shown
from llmserve.store.store import Store
from llmserve.types import Engine, KvType, ModelFormat, from_json, to_json

DEFAULT_LOCK = "models.lock"
_VERSION = 1
_LIMIT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LockedFile:
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LockedAdapter:
    """An adapter, which lies at `path` on every machine that uses the lock file."""

    path: str
    size_bytes: int
    sha256: str
    scale: float
    name: str | None = None
    default: bool | None = None


@dataclass(frozen=True, slots=True)
class LockedModel:
    """One model. `template_sha256` is that of the chat template in use, `template` its text where it is not the file's
    own."""

    name: str
    source: str
    format: ModelFormat
    quantization: str
    files: tuple[LockedFile, ...]
    commit: str | None = None
    template_sha256: str | None = None
    template: str | None = None
    adapters: tuple[LockedAdapter, ...] = ()
    defaults: ChatDefaults | None = None


@dataclass(frozen=True, slots=True)
class LockedSettings:
    """The settings of the engines that were stated when the models were locked; None for those that were not."""

    engine: Engine | None = None
    context: int | None = None
    parallel: int | None = None
    kv_type: KvType | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    output_format: str | None = None


@dataclass(frozen=True, slots=True)
class _Content:
    version: int
    models: tuple[LockedModel, ...] = ()
    settings: LockedSettings = field(default_factory=LockedSettings)


@dataclass(frozen=True, slots=True)
class LockFile:
    """The models of the lock file at `path`, sorted by name."""

    path: Path
    models: tuple[LockedModel, ...]
    settings: LockedSettings

    def model(self, name: str) -> LockedModel | None:
        return next((model for model in self.models if model.name == name), None)

    def applied(self, settings: Settings) -> Settings:
        """`settings` with those that are locked. Raises `SettingsError` for one that states something else."""
        stated = {name: value for name, value in _values(self.settings).items() if value is not None}
        for name, value in stated.items():
            given = getattr(settings, name)
            if given not in (None, value):
                raise SettingsError(
                    f"`{name}` is {given} here and {value} in {self.path.name}",
                    param=name,
                    hint="leave it out, or write the lock file anew with `llmserve lock`",
                )
        return replace(settings, **stated)


def lock_models(store: Store, path: Path, names: Iterable[str], settings: Settings) -> LockFile:
    """What the lock file at `path` is to say of these models as they are installed; nothing is written.

    Raises `ModelNotFound` and `InvalidModel` as `Store.find` does.
    """
    locked = {manifest.name: _locked(store, manifest) for manifest in map(store.manifest, names)}
    chosen = {name: getattr(settings, name) for name in _values(LockedSettings())}
    return LockFile(path, tuple(locked[name] for name in sorted(locked)), LockedSettings(**chosen))


def write_lock(lock: LockFile) -> None:
    """Write the lock file, or leave the old one. Raises `InsufficientStorage` or `PullFailed`."""
    content = json.loads(to_json(_Content(_VERSION, lock.models, lock.settings)))
    text = json.dumps(_without_unknown(content), indent=2, ensure_ascii=False)
    temporary = lock.path.with_name(f".{lock.path.name}.{uuid.uuid4().hex[:8]}")
    with storage_errors(f"write {lock.path}"):
        try:
            write_durably(temporary, f"{text}\n".encode())
            temporary.chmod(0o644)  # it is meant to be shared
            rename_durably(temporary, lock.path)
        finally:
            temporary.unlink(missing_ok=True)


def read_lock(path: Path) -> LockFile:
    """Read a lock file. Raises `SettingsError` for one that is missing, unsound or of another version."""
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"cannot read the lock file {path}: {error.strerror}", param="locked", hint="`llmserve lock` writes one"
        ) from error
    try:
        if len(text) > _LIMIT_BYTES:
            raise ValueError("it is too large")
        content = from_json(_Content, text)
        if content.version != _VERSION:
            raise ValueError(f"its version is {content.version}, known is {_VERSION}")
        for model in content.models:
            _check(model)
        if len({model.name for model in content.models}) != len(content.models):
            raise ValueError("a name occurs twice")
    except ValueError as error:
        reason = shown(str(error).partition("\n")[0])
        raise SettingsError(f"{path} is no sound lock file: {reason}", param="locked") from error
    return LockFile(path, content.models, content.settings)


def difference(locked: LockedModel, manifest: Manifest) -> str | None:
    """In what an installed model is not the locked one: the end of a sentence, None where it is."""
    if problem := files_difference(locked, manifest.files):
        return problem
    if (manifest.template.sha256 if manifest.template else None) != _own_template_sha256(locked):
        return "has another chat template"
    here = [(adapter.file.sha256, adapter.scale, adapter.name, adapter.default) for adapter in manifest.adapters]
    if here != [(adapter.sha256, adapter.scale, adapter.name, bool(adapter.default)) for adapter in locked.adapters]:
        return "has other adapters"
    if (manifest.defaults or ChatDefaults()) != (locked.defaults or ChatDefaults()):
        return "has another system message or other parameters"
    return None


def files_difference(locked: LockedModel, files: Iterable[Companion]) -> str | None:
    """As `difference`, of the files alone."""
    here = {file.name.rpartition("/")[2]: file for file in files}
    wanted = {file.name: file for file in locked.files}
    if len(here) == len(wanted) == 1:
        # A file that is alone is known by what it holds: its name is its source's affair.
        here = dict(zip(wanted, here.values(), strict=True))
    for name in sorted(wanted.keys() | here.keys()):
        if name not in here:
            return f"lacks `{name}`"
        if name not in wanted:
            return f"has `{name}` besides"
        if here[name].sha256 != wanted[name].sha256:
            return f"has another `{name}`: its SHA-256 is {here[name].sha256}, not {wanted[name].sha256}"
    return None


def _locked(store: Store, manifest: Manifest) -> LockedModel:
    in_use = store.inspect(manifest.name).chat_template
    return LockedModel(
        name=manifest.name,
        source=manifest.source,
        format=manifest.format,
        quantization=manifest.quantization,
        files=tuple(LockedFile(file.name, file.identity.size_bytes, file.sha256) for file in manifest.files),
        commit=_commit(manifest.source),
        template_sha256=None if in_use is None else _sha256(in_use),
        template=store.own_template(manifest),
        adapters=tuple(
            LockedAdapter(
                str(store.file_path(adapter.file)),
                adapter.file.identity.size_bytes,
                adapter.file.sha256,
                adapter.scale,
                adapter.name,
                adapter.default or None,
            )
            for adapter in manifest.adapters
        ),
        defaults=manifest.defaults,
    )


def _commit(source: str) -> str | None:
    try:
        reference = parse_name(source)
    except InvalidRequest:
        return None
    return reference.revision if isinstance(reference, HubReference) else None


def _check(model: LockedModel) -> None:
    """Raise `ValueError` for what cannot be true of a model."""
    digests = [*(file.sha256 for file in model.files), *(adapter.sha256 for adapter in model.adapters)]
    names_are_plain = all(is_plain_name(file.name) for file in model.files)
    names_are_plain &= are_sound_names(model.adapters)
    if not model.files or not names_are_plain or not all(map(is_sha256, digests)):
        raise ValueError(f"what it says of `{shown(model.name)}` makes no sense")
    try:
        if str(parse_name(model.name)) != model.name:
            raise ValueError(f"`{shown(model.name)}` is no model's full name")
        if model.template is not None:
            check_template(model.template)
    except InvalidRequest as error:
        raise ValueError(error.message) from error


def _own_template_sha256(locked: LockedModel) -> str | None:
    return None if locked.template is None else _sha256(locked.template)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _values(settings: LockedSettings) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def _without_unknown(value: Any) -> Any:
    """Plain JSON without the keys whose value is null and the tables and lists that are empty."""
    if isinstance(value, list):
        return [_without_unknown(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_unknown(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item is not None and item != {} and item != []}
