"""`llmserve prune`: remove what nobody needs."""

from __future__ import annotations

import click

from llmserve.cli.terminal import bytes_text, print_json, talk


@click.command("prune")
@click.option("--partial", is_flag=True, help="Also what interrupted pulls left, from which they would go on.")
@click.option("--dry-run", is_flag=True, help="Tell what would be removed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(partial: bool, dry_run: bool, as_json: bool) -> None:
    """Remove files of the store that no model uses. No model is removed."""
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings
    from llmserve.store.usage import prune

    removed = prune(open_store(load_settings()), partial=partial, dry_run=dry_run)
    freed = sum(item.size_bytes for item in removed)
    if as_json:
        entries = [{"path": str(item.path), "size_bytes": item.size_bytes, "reason": item.reason} for item in removed]
        print_json({"removed": entries, "freed_bytes": 0 if dry_run else freed})
        return
    for item in removed:
        talk(f"{'would remove' if dry_run else 'removed'} {item.path} ({bytes_text(item.size_bytes)}): {item.reason}")
    talk(f"{bytes_text(freed)} {'would be freed' if dry_run else 'freed'}")
