"""Further names for models that are here: copies, and models made from a description of a few lines."""

from __future__ import annotations

import tomllib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmserve.errors import Conflict, InvalidRequest
from llmserve.store.defaults import ChatDefaults
from llmserve.store.names import LogicalName, parse_name
from llmserve.store.store import Store
from llmserve.types import InstalledModel

_KEYS = ("base", "system", "temperature")
_NOT_YET = {"template": "a template of one's own", "adapters": "adapters", "parameters": "a table of parameters"}


def copy(store: Store, source: str, name: str, defaults: ChatDefaults | None = None) -> InstalledModel:
    """Give an installed model a further name; its files are shared, and stay as they are when the first name goes on.

    What the first name means later does not matter to the copy. Raises `ModelNotFound`, `InvalidModel`; `Conflict` for
    a name that is taken.
    """
    target = _new_name(store, name)
    manifest = store.manifest(source)
    store.prepare()
    with ExitStack() as stack:
        stack.enter_context(store.locks.held("model", str(target)))
        # Not the source's lock, in which two copies could wait in a circle: while its blobs are locked, none can go.
        for sha256 in sorted({file.sha256 for file in manifest.files}):
            stack.enter_context(store.blobs.lock(sha256))
        manifest = store.manifest(source)
        store.require_free(target)
        known = store.defaults(source)
        store.manifests.write(target, replace(manifest, name=str(target), defaults=defaults or known))
    return store.find(str(target))


def create(store: Store, name: str, file: Path) -> InstalledModel:
    """Make the model that `file` describes (TOML: base, system, temperature). Raises as `copy` does, and
    `InvalidRequest` for a file that says anything else."""
    try:
        with file.open("rb") as opened:
            described = tomllib.load(opened)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequest(f"cannot read {file}: {error}", param="file") from error
    for key in described:
        if key in _NOT_YET:
            raise InvalidRequest(f"{file}: {_NOT_YET[key]} (`{key}`) cannot be used yet", param=key)
        if key not in _KEYS:
            raise InvalidRequest(f"{file}: unknown key `{key}`", param=key, hint=f"known are {', '.join(_KEYS)}")
    base = _typed(file, described, "base", str)
    if base is None:
        raise InvalidRequest(f"{file}: `base` is missing: the model to start from", param="base")
    known = store.defaults(base)
    temperature = _typed(file, described, "temperature", float)
    if temperature is not None and not 0 <= temperature <= 2:
        raise InvalidRequest(f"{file}: `temperature` is {temperature:g}, outside 0 to 2", param="temperature")
    system = _typed(file, described, "system", str)
    defaults = ChatDefaults(
        system=known.system if system is None else system,
        temperature=known.temperature if temperature is None else temperature,
    )
    return copy(store, base, name, defaults)


def _new_name(store: Store, name: str) -> LogicalName:
    target = parse_name(name)
    if not isinstance(target, LogicalName):
        raise InvalidRequest("a name of your own looks like `family:tag`", param="name")
    if store.catalog.entry(name) is not None:
        raise Conflict(f"`{name}` is a name of the catalog", param="name", hint="choose another name")
    store.require_free(target)
    return target


def _typed(file: Path, described: dict[str, Any], key: str, kind: type[Any]) -> Any:
    value = described.get(key)
    if kind is float and type(value) is int:
        value = float(value)
    if value is not None and type(value) is not kind:
        raise InvalidRequest(f"{file}: `{key}` is no {'text' if kind is str else 'number'}", param=key)
    return value
