"""`llmserve rm`: forget models and free their space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmserve.cli.terminal import bytes_text, talk
from llmserve.errors import InvalidModel

if TYPE_CHECKING:
    from llmserve.store.store import Store


@click.command("rm")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
def command(models: tuple[str, ...]) -> None:
    """Remove models from this disk.

    A file of your own stays where it is. Nothing is removed when one of the names is not installed.
    """
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings

    store = open_store(load_settings())
    # A name and its alias may both be given: each model once.
    for name in dict.fromkeys([_name(store, model) for model in models]):
        freed = store.remove(name)
        talk(f"removed {name} ({bytes_text(freed)} freed)")


def _name(store: Store, text: str) -> str:
    from llmserve.cli.models import known_model

    try:
        return known_model(store, text).name
    except InvalidModel:
        # Damaged, which is a good reason to remove it.
        return text
