"""From what a person typed for MODEL (a name or the path of a .gguf file) to an installed model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmserve.errors import InvalidModel, InvalidRequest, ModelNotFound
from llmserve.settings import Settings, home_directory

if TYPE_CHECKING:
    from llmserve.store.store import Store
    from llmserve.types import InstalledModel


def open_store(settings: Settings) -> Store:
    from llmserve.store.store import Store

    return Store(home_directory(settings))


def open_serving_store(settings: Settings) -> Store:
    """The store with what a server would serve: only what the settings' lock file names, where there is one."""
    if settings.locked is None:
        return open_store(settings)
    from llmserve.store.serving import serving_store

    return serving_store(settings)


def installed_model(store: Store, text: str) -> InstalledModel:
    """The model of this name, or the file of this path, which becomes known to the store if it was not yet.

    Raises what `Store.find` or `adopt` raises, `ModelNotFound` for a name that is not installed among it.
    """
    from llmserve.cli.progress import shown_progress
    from llmserve.store.names import is_path

    if not is_path(text):
        return store.find(text)
    from llmserve.store.adoption import adopt

    with shown_progress() as report:
        return adopt(store, Path(text), report)


def known_or_damaged(store: Store, text: str) -> str:
    """The name of the model that `text` (a name, or the path of a file) means, also where it cannot be served."""
    try:
        return known_model(store, text).name
    except InvalidModel:
        return text


def refuse_ambiguous(text: str) -> None:
    """Raise `InvalidRequest` for text that names both a repository on the Hub and a path that exists here."""
    from llmserve.store.names import is_hub

    if is_hub(text) and ":" not in text and Path(text).exists():
        raise InvalidRequest(
            f"`{text}` is a path here and may be a repository on the Hub",
            param="model",
            hint=f"choose: `llmserve pull ./{text}`, `llmserve pull hf:{text}`",
        )


def known_model(store: Store, text: str) -> InstalledModel:
    """Like `installed_model`, but a file that the store does not know is a `ModelNotFound` and stays unknown."""
    from llmserve.store.names import is_path

    if not is_path(text):
        return store.find(text)
    path = Path(text).expanduser().resolve()
    for model in store.list():
        if Path(model.path) == path:
            return model
    raise ModelNotFound(f"no installed model uses the file `{text}`", hint="`llmserve list` shows what is installed")
