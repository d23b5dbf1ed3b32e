"""`llmserve rm`: forget models and free their space."""

from __future__ import annotations

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import bytes_text, talk


@click.command("rm")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, shell_complete=installed_models)
def command(models: tuple[str, ...]) -> None:
    """Remove models from this disk.

    What a pull brought goes, unless another model uses it; a file of your own stays where it is. Nothing is removed
    when one of the names is not installed; a model that is in use is refused.
    """
    from llmserve.cli.models import known_or_damaged, open_store
    from llmserve.settings import load_settings

    store = open_store(load_settings())
    # A name and its alias may both be given: each model once.
    for name in dict.fromkeys([known_or_damaged(store, model) for model in models]):
        freed = store.remove(name)
        talk(f"removed {name} ({bytes_text(freed)} freed)")
