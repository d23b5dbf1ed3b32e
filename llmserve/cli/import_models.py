"""`llmserve import`: models that are on this disk already, or in a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmserve.cli.terminal import talk, warn
from llmserve.errors import InvalidModel, InvalidRequest

if TYPE_CHECKING:
    from llmserve.settings import Settings
    from llmserve.store.foreign import ForeignModel
    from llmserve.store.names import LogicalName
    from llmserve.store.store import Store
    from llmserve.types import InstalledModel

_BUNDLE = ".tar"


@click.command("import")
@click.argument("source", metavar="FILE|DIRECTORY|ollama")
@click.option("--name", help="What the model is to be called (family:tag), where SOURCE is one model.")
def command(source: str, name: str | None) -> None:
    """Use models that are on this disk already.

    \b
    FILE.gguf            a model, used where it lies
    DIRECTORY            every model in it (LM Studio's, or your own), used where they lie
    ollama               every model of Ollama's store, used where they lie
    FILE.tar             what `llmserve export` wrote; its files are copied into the store

    Every byte is read once, so that what is served later is what was checked.
    """
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings

    settings = load_settings()
    store = open_store(settings)
    path = _path(source)
    if source == "ollama":
        _refuse_name(name)
        models = _ollama(store)
    elif path.suffix == _BUNDLE:
        _refuse_name(name)
        models = _bundle(store, settings, path)
    else:
        models = _own(store, path, name)
    for model in models:
        talk(f"imported {model.name}")
    if not models:
        raise InvalidRequest(f"there is no model in {source}", param="source")


def _path(source: str) -> Path:
    from llmserve.store.names import shown

    try:
        path = Path(source).expanduser()
        path.is_dir()  # raises for what is too long
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidRequest(f"`{shown(source)}` is not a path", param="source") from error
    return path


def _refuse_name(name: str | None) -> None:
    if name is not None:
        raise InvalidRequest("the models have names already", param="name", hint="`llmserve cp` gives a further one")


def _bundle(store: Store, settings: Settings, path: Path) -> list[InstalledModel]:
    from llmserve.cli.progress import budget, shown_progress
    from llmserve.store.bundles import import_bundle

    with shown_progress() as report:
        return list(import_bundle(store, path, report, budget(settings, report)))


def _ollama(store: Store) -> list[InstalledModel]:
    from llmserve.store.foreign import ollama_directory, ollama_models

    return _adopt_all(store, list(ollama_models(ollama_directory())), None)


def _own(store: Store, path: Path, name: str | None) -> list[InstalledModel]:
    from llmserve.store.foreign import ForeignModel, find_models
    from llmserve.store.names import LogicalName, parse_name

    asked = None if name is None else parse_name(name)
    if asked is not None and not isinstance(asked, LogicalName):
        raise InvalidRequest("a name of your own looks like `family:tag`", param="name")
    models = list(find_models(path)) if path.is_dir() else [ForeignModel(path)]
    if asked is not None and len(models) != 1:
        raise InvalidRequest(f"{path} holds {len(models)} models, not one to be called `{name}`", param="name")
    return _adopt_all(store, models, asked)


def _adopt_all(store: Store, models: list[ForeignModel], name: LogicalName | None) -> list[InstalledModel]:
    """Adopt each; of several, one that is refused costs only itself."""
    from llmserve.cli.progress import shown_progress
    from llmserve.store.adoption import adopt

    adopted = []
    for model in models:
        try:
            with shown_progress() as report:
                adopted.append(adopt(store, model.path, report, name or model.name, model.sha256))
        except InvalidModel as error:
            if len(models) == 1:
                raise
            warn(f"{model.path} is left out: {error.message}")
    return adopted
