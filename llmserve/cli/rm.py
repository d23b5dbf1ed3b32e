"""`llmserve rm`: forget models and free their space."""

from __future__ import annotations

import click


@click.command("rm")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
def command(models: tuple[str, ...]) -> None:
    """Remove models from this disk.

    A file of your own stays where it is. Nothing is removed when one of the names is not installed.
    """
    from llmserve.cli.models import known_model, open_store
    from llmserve.cli.terminal import talk
    from llmserve.settings import load_settings

    store = open_store(load_settings())
    # A name and its alias may both be given: each model once.
    names = list(dict.fromkeys(known_model(store, model).name for model in models))
    for name in names:
        store.remove(name)
        talk(f"removed {name}")
