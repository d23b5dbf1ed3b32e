"""`llmserve list`: what is installed."""

from __future__ import annotations

import click

from llmserve.cli.terminal import age_text, bytes_text, print_json, print_table, talk, warn


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the installed models."""
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings

    store = open_store(load_settings())
    models, damaged_models = store.survey()
    if as_json:
        print_json(models)
    elif models:
        rows = [
            (
                model.name,
                ", ".join(model.aliases),
                model.format,
                model.quantization,
                bytes_text(model.size_bytes),
                age_text(model.pulled_at),
            )
            for model in models
        ]
        print_table(rows, ("NAME", "ALIASES", "FORMAT", "QUANTIZATION", "SIZE", "PULLED"))
    else:
        talk("no model is installed; `llmserve pull MODEL` gets one")
    for damaged in damaged_models:
        warn(f"`{damaged.name}` {damaged.reason}")
