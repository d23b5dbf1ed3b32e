"""`llmserve du`: what the models take on the disk."""

from __future__ import annotations

import dataclasses

import click

from llmserve.cli.terminal import age_text, bytes_text, print_json, print_table


@click.command("du")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what the models take on the disk."""
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings
    from llmserve.store.budget import held_bytes
    from llmserve.store.usage import usage

    settings = load_settings()
    store = open_store(settings)
    used = usage(store)
    if as_json:
        print_json({**dataclasses.asdict(used), "held_bytes": held_bytes(store), "budget_bytes": settings.disk_budget})
        return
    rows = [
        (
            model.name,
            bytes_text(model.size_bytes),
            bytes_text(model.shared_bytes),
            model.where,
            age_text(model.used_at),
            "yes" if model.pinned else "",
        )
        for model in sorted(used.models, key=lambda model: -model.size_bytes)
    ]
    if rows:
        print_table(rows, ("NAME", "SIZE", "SHARED", "WHERE", "LAST USED", "PINNED"))
        click.echo()
    totals = [
        ("total", bytes_text(used.total_bytes), "each file counted once"),
        ("unused", bytes_text(used.unused_bytes), "`llmserve prune` removes it"),
        ("partial", bytes_text(used.partial_bytes), "of interrupted pulls; `llmserve prune --partial` removes it"),
        (
            "prefixes",
            bytes_text(used.prefix_bytes),
            "of texts, for the next run; `prefix_disk` bounds them",
        ),
        ("free", bytes_text(used.free_bytes), "on the disk of the store"),
    ]
    if settings.disk_budget is not None:
        held = f"{bytes_text(held_bytes(store))} of it are taken by what pulls brought"
        totals.append(("budget", bytes_text(settings.disk_budget), held))
    print_table(totals)
