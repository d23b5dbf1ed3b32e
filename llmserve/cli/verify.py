"""`llmserve verify`: is every byte still what it was?"""

from __future__ import annotations

import dataclasses

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import bytes_text, print_json, print_table


@click.command("verify")
@click.argument("models", metavar="[MODEL...]", nargs=-1, shell_complete=installed_models)
@click.option("--repair", is_flag=True, help="Fetch damaged files again, from the same commit.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(models: tuple[str, ...], repair: bool, as_json: bool) -> int:
    """Check every byte of models (default: of all).

    Their files are read and their SHA-256 compared. A damaged model is not served from then on. The exit code is 1
    where one is and was not repaired.
    """
    from llmserve.cli.models import known_or_damaged, open_store
    from llmserve.cli.progress import shown_progress
    from llmserve.settings import load_settings
    from llmserve.store.verification import verify

    store = open_store(load_settings())
    names = [known_or_damaged(store, model) for model in models]
    if not models:
        installed, damaged = store.survey()
        names = sorted([*(model.name for model in installed), *(model.name for model in damaged)])
    verdicts = []
    with shown_progress() as report:
        for name in names:
            verdicts.append(verify(store, name, report, repair=repair))
    if as_json:
        print_json([dataclasses.asdict(verdict) for verdict in verdicts])
    else:
        for verdict in verdicts:
            state = "ok" if verdict.problem is None else "repaired" if verdict.repaired else "damaged"
            print_table([(state, verdict.name, bytes_text(verdict.size_bytes), verdict.problem or "")])
    return int(any(verdict.problem and not verdict.repaired for verdict in verdicts))
