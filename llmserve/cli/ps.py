"""`llmserve ps`: the models that are loaded now."""

from __future__ import annotations

import click

from llmserve.cli.terminal import print_json, print_table, talk


@click.command("ps")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the models that the running server has loaded."""
    from llmserve.cli.connection import running_gateway
    from llmserve.settings import load_settings

    with running_gateway(load_settings()) as gateway:
        models = gateway.ps()
    if as_json:
        print_json(models)
    elif models:
        columns = list(dict.fromkeys(key for model in models for key in model))
        print_table([[str(model.get(key, "")) for key in columns] for model in models], [c.upper() for c in columns])
    else:
        talk("no model is loaded")
