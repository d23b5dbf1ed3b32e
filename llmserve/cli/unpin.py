"""`llmserve unpin`: let models go again when something else needs room."""

from __future__ import annotations

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.pin import set_pinned
from llmserve.cli.terminal import talk


@click.command("unpin")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, shell_complete=installed_models)
def command(models: tuple[str, ...]) -> None:
    """Let pinned models go again.

    From then on they may be removed when the disk budget needs room.
    """
    for name in set_pinned(models, pinned=False):
        talk(f"{name} may go when the disk budget needs room")
