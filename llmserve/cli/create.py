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
      template = { file = "chat.jinja" }       or the template itself
      adapters = ["style.gguf"]                or { file = "style.gguf", scale = 0.5, name = "style" }
      parameters = { temperature = 0.2 }       temperature, top_p, max_tokens, seed

    The files are shared with the base, and adapters are used where they lie. One with a name is on where a request
    asks for `NAME@style` or, with `default = true`, for no other; one without is always on. The template takes the
    place of the model's own; `llmserve run NAME` uses system message and parameters, unless an option says otherwise.
    """
    from llmserve.cli.models import open_store
    from llmserve.cli.progress import shown_progress
    from llmserve.settings import load_settings
    from llmserve.store.copies import create

    with shown_progress() as report:
        made = create(open_store(load_settings()), name, file, report)
    talk(f"made {made.name}")
