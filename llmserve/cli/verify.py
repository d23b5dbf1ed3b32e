"""`llmserve verify`: is every byte still what it was?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import bytes_text, print_json, print_table, talk

if TYPE_CHECKING:
    from llmserve.store.verification import Verdict


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
    from llmserve.store.verification import verify_each

    store = open_store(load_settings())
    names = [known_or_damaged(store, model) for model in models]
    if not models:
        installed, damaged = store.survey()
        names = sorted([*(model.name for model in installed), *(model.name for model in damaged)])
    with shown_progress() as report:
        verdicts = list(verify_each(store, names, report, repair=repair))
    if as_json:
        print_json([dataclasses.asdict(verdict) for verdict in verdicts])
    elif verdicts:
        print_table(
            [(_state(verdict), verdict.name, bytes_text(verdict.size_bytes), _said(verdict)) for verdict in verdicts]
        )
    else:
        talk("no model is installed")
    left = [verdict for verdict in verdicts if verdict.problem and not verdict.repaired]
    if left and not repair:
        talk("`llmserve verify --repair` fetches again what is damaged and has a source")
    return int(bool(left))


def _state(verdict: Verdict) -> str:
    return "ok" if verdict.problem is None else "repaired" if verdict.repaired else "damaged"


def _said(verdict: Verdict) -> str:
    problem = verdict.problem or ""
    return f"{problem}; not repaired: {verdict.failure}" if verdict.failure else problem
