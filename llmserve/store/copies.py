"""Further names for models that are here: copies, and models made from a description of a few lines."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from llmserve.errors import Conflict, InvalidRequest
from llmserve.store.adapters import read_adapter
from llmserve.store.blobs import Expected, Incoming
from llmserve.store.defaults import ChatDefaults
from llmserve.store.description import Description, read_description
from llmserve.store.gguf import read_whole_header
from llmserve.store.manifests import Adapter, Companion, Manifest
from llmserve.store.names import LogicalName, parse_name
from llmserve.store.progress import Report, ignore_progress
from llmserve.store.scratch import Scratch
from llmserve.store.store import Store
from llmserve.types import InstalledModel

# What a template of its own is called in messages and bundles.
TEMPLATE_FILE = "chat_template.jinja"


def copy(store: Store, source: str, name: str) -> InstalledModel:
    """Give an installed model a further name; its files are shared, and stay as they are when the first name goes on.

    What the first name means later does not matter to the copy. Raises `ModelNotFound`, `InvalidModel`; `Conflict` for
    a name that is taken.
    """
    return make(store, Description(source), name, made=False)


def create(store: Store, name: str, file: Path, progress: Report | None = None) -> InstalledModel:
    """Make the model that `file` describes. Raises as `copy` does, `InvalidRequest` for a file that says something
    that cannot be, and `InvalidModel` for adapters that do not fit the base."""
    return make(store, read_description(file), name, progress or ignore_progress)


def new_name(store: Store, name: str, *, replaces: bool = False) -> LogicalName:
    """`name` for a model that is to be made. Raises `InvalidRequest` for what is none, `Conflict` where it is taken.

    With `replaces` it may be that of a model that was made from a description.
    """
    target = parse_name(name)
    if not isinstance(target, LogicalName):
        raise InvalidRequest("a name of your own looks like `family:tag`", param="name")
    if store.catalog.entry(name) is not None:
        raise Conflict(f"`{name}` is a name of the catalog", param="name", hint="choose another name")
    store.require_free(target, unless_made=replaces)
    return target


def make(
    store: Store,
    described: Description,
    name: str,
    report: Report = ignore_progress,
    *,
    made: bool = True,
    replaces: bool = False,
) -> InstalledModel:
    """Make the model that is described. Raises as `create` does.

    `made`: another description may take its place. `replaces`: it takes the place of such a model, which is there until
    then; `Conflict` while a process serves that one.
    """
    target = new_name(store, name, replaces=replaces)
    adapters = _adapters(store, described, report)
    known = store.defaults(described.base)
    store.prepare()
    with store.locks.held("model", str(target)):
        earlier = store.require_free(target, unless_made=replaces)
        if earlier is not None:
            store.require_unused(earlier)
        _write(store, described, target, adapters, known, made=made)
        if earlier is not None:
            store.removal.free_all(earlier)
    return store.find(str(target))


def _write(
    store: Store,
    described: Description,
    target: LogicalName,
    adapters: tuple[Adapter, ...] | None,
    known: ChatDefaults,
    *,
    made: bool,
) -> None:
    """Write the manifest of the model that is described. The caller holds the lock of its name."""
    with ExitStack() as stack:
        # Not the source's lock, in which two copies could wait in a circle: while its blobs are locked, none can go.
        for sha256 in _based_on(store.manifest(described.base), described, adapters).blobs:
            stack.enter_context(store.blobs.lock(sha256))
        manifest = _based_on(store.manifest(described.base), described, adapters)
        if described.template is not None:
            manifest = replace(manifest, template=stack.enter_context(template_blob(store, described.template)))
        defaults = _merged(known, described.defaults)
        manifest = replace(manifest, name=str(target), defaults=defaults, pinned=False, made=made)
        store.manifests.write(target, manifest)


def _based_on(base: Manifest, described: Description, adapters: tuple[Adapter, ...] | None) -> Manifest:
    """The base's manifest with the adapters that are stated, and without a template that another will replace."""
    return replace(
        base,
        template=base.template if described.template is None else None,
        adapters=base.adapters if adapters is None else adapters,
    )


def _adapters(store: Store, described: Description, report: Report) -> tuple[Adapter, ...] | None:
    """The adapters that are stated, inspected; None where none are."""
    if described.adapters is None:
        return None
    if not described.adapters:
        return ()
    base = store.inspect(described.base)
    if base.format != "gguf":
        raise InvalidRequest(f"`{described.base}` is no GGUF model, so it cannot take adapters", param="adapters")
    if base.kind != "generate":
        raise InvalidRequest(f"`{described.base}` is an embedding model, which takes no adapters", param="adapters")
    header = read_whole_header(store.load_path(store.manifest(described.base)))
    return tuple(
        Adapter(read_adapter(adapter.path, header, report), adapter.scale, adapter.name, adapter.default)
        for adapter in described.adapters
    )


def _merged(known: ChatDefaults, stated: ChatDefaults) -> ChatDefaults:
    """What is stated and, where nothing is, what was known."""
    values = {name: value for name, value in dataclasses.asdict(stated).items() if value is not None}
    return replace(known, **values)


@contextmanager
def template_blob(store: Store, text: str) -> Iterator[Companion]:
    """A chat template as a blob, whose lock is held until the block ends."""
    content = text.encode()

    @contextmanager
    def opened(_area: Scratch) -> Iterator[Incoming]:
        yield Incoming(len(content), [content])

    expected = Expected(len(content), hashlib.sha256(content).hexdigest())
    with store.blobs.obtained(expected, opened, ignore_progress) as blob:
        yield Companion(TEMPLATE_FILE, blob.sha256, blob.identity)
