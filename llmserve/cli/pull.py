"""`llmserve pull`: bring a model to this disk."""

from __future__ import annotations

import click


@click.command("pull")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print each step as a line of JSON.")
def command(model: str, as_json: bool) -> None:
    """Download a model, verified and complete or not at all."""
    from llmserve.cli.models import open_store
    from llmserve.cli.progress import pull, pull_as_json
    from llmserve.settings import load_settings

    store = open_store(load_settings())
    if as_json:
        pull_as_json(store, model)
    else:
        pull(store, model)
