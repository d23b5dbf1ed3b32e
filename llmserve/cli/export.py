"""`llmserve export`: models in one file, for a machine without a network."""

from __future__ import annotations

from pathlib import Path

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import bytes_text, talk


@click.command("export")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, shell_complete=installed_models)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The bundle to write (.tar)."
)
def command(models: tuple[str, ...], output: Path) -> None:
    """Write models into one file, with their digests and licences.

    `llmserve import FILE` installs them elsewhere, and refuses what changed on the way.
    """
    from llmserve.cli.models import open_store
    from llmserve.cli.progress import shown_progress
    from llmserve.settings import load_settings
    from llmserve.store.bundles import export_models

    with shown_progress() as report:
        bundle = export_models(open_store(load_settings()), models, output, report)
    size_bytes = sum(file.size_bytes for file in bundle.blobs.values())
    names = ", ".join(model.name for model in bundle.models)
    talk(f"wrote {names} to {output} ({bytes_text(size_bytes)})")
