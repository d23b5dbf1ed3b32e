"""`llmserve list`: what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmserve.cli.terminal import age_text, bytes_text, print_json, print_table, talk, warn

if TYPE_CHECKING:
    from llmserve.store.store import Store


@click.command("list")
@click.option(
    "--catalog", "of_catalog", is_flag=True, help="List the models that `llmserve pull` knows by name instead."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(of_catalog: bool, as_json: bool) -> None:
    """List the installed models."""
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings

    store = open_store(load_settings())
    if of_catalog:
        _print_catalog(store, as_json=as_json)
        return
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
    elif not damaged_models:
        talk("no model is installed; `llmserve pull MODEL` gets one, and `llmserve list --catalog` shows which")
    for damaged in damaged_models:
        warn(f"`{damaged.name}` {damaged.reason}")
    if damaged_models:
        talk("`llmserve verify --repair` fetches again what has a source, and `llmserve rm` forgets a model")


def _print_catalog(store: Store, *, as_json: bool) -> None:
    """The models of the catalog, and which of them are here."""
    models = store.catalog.models
    if as_json:
        print_json(models)
        return
    entries = (store.catalog.entry(name) for name in store.manifests.names())
    here = {entry.name for entry in entries if entry is not None}
    rows = [
        (
            model.name,
            ", ".join(model.aliases),
            model.task,
            ", ".join(dict.fromkeys(variant.quantization for variant in model.variants)),
            model.license or "unknown",
            "yes" if model.name in here else "",
            model.description,
        )
        for model in models
    ]
    print_table(rows, ("NAME", "ALIASES", "FOR", "QUANTIZATIONS", "LICENSE", "HERE", "DESCRIPTION"))
