"""`llmserve cp`: a further name for a model."""

from __future__ import annotations

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import talk


@click.command("cp")
@click.argument("model", shell_complete=installed_models)
@click.argument("name")
def command(model: str, name: str) -> None:
    """Give MODEL the further NAME (family:tag).

    Nothing is copied on the disk. NAME keeps meaning these very files, whatever becomes of the first name.
    """
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings
    from llmserve.store.copies import copy

    made = copy(open_store(load_settings()), model, name)
    talk(f"{made.name} is a name of {model} now")
