"""`llmserve pin`: keep models whatever else needs room."""

from __future__ import annotations

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import talk


@click.command("pin")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, shell_complete=installed_models)
def command(models: tuple[str, ...]) -> None:
    """Keep models whatever else needs room.

    The disk budget then removes others instead.

    `llmserve unpin` takes it back, and `llmserve rm` removes a pinned model all the same.
    """
    for name in set_pinned(models, pinned=True):
        talk(f"{name} stays, whatever else needs room")


def set_pinned(models: tuple[str, ...], *, pinned: bool) -> list[str]:
    """Pin the models, or let them go; returns their full names."""
    from llmserve.cli.models import known_or_damaged, open_store
    from llmserve.settings import load_settings
    from llmserve.store import pins

    store = open_store(load_settings())
    names = dict.fromkeys([known_or_damaged(store, model) for model in models])
    return [pins.set_pinned(store, name, pinned=pinned) for name in names]
