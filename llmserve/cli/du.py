"""`llmserve du`: what the models take on the disk."""

from __future__ import annotations

import dataclasses

import click

from llmserve.cli.terminal import bytes_text, print_json, print_table


@click.command("du")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what the models take on the disk."""
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings
    from llmserve.store.usage import usage

    used = usage(open_store(load_settings()))
    if as_json:
        print_json(dataclasses.asdict(used))
        return
    rows = [
        (model.name, bytes_text(model.size_bytes), bytes_text(model.shared_bytes), model.where)
        for model in sorted(used.models, key=lambda model: -model.size_bytes)
    ]
    if rows:
        print_table(rows, ("NAME", "SIZE", "SHARED", "WHERE"))
        click.echo()
    print_table(
        [
            ("total", bytes_text(used.total_bytes), "each file counted once"),
            ("unused", bytes_text(used.unused_bytes), "`llmserve prune` removes it"),
            ("partial", bytes_text(used.partial_bytes), "of interrupted pulls; `llmserve prune --partial` removes it"),
            ("free", bytes_text(used.free_bytes), "on the disk of the store"),
        ]
    )
