"""`llmserve create`: a model made from another one."""

from __future__ import annotations

from pathlib import Path

import click

from llmserve.cli.terminal import talk


@click.command("create")
@click.argument("name")
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="TOML that describes the model.",
)
def command(name: str, file: Path) -> None:
    """Make the model NAME from an installed one.

    \b
    FILE says what is different:
      base = "smollm2:135m"
      system = "You answer in one sentence."
      temperature = 0.2

    The files are shared with the base. `llmserve run NAME` uses what is stated, unless an option says otherwise.
    """
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings
    from llmserve.store.copies import create

    made = create(open_store(load_settings()), name, file)
    talk(f"made {made.name}")
