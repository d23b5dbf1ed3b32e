"""A pull, and how it shows itself: a bar for a person, lines for a log, events for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from llmserve.cli.terminal import bytes_text, talk

if TYPE_CHECKING:
    from llmserve.planning.variant import VariantChoice
    from llmserve.store.options import PullOptions
    from llmserve.store.progress import PullProgress, Report
    from llmserve.store.store import Store
    from llmserve.types import InstalledModel

# A log gets a line per stage and, for what takes minutes, one per this share of the bytes.
_LOG_STAGE = "downloading"
_LOG_PERCENT = 10


def pull(store: Store, name: str, options: PullOptions | None = None) -> InstalledModel:
    """Pull `name` and keep the person informed on stderr: what is chosen and why, what it takes, and how far it is."""
    talk(f"pulling {name}")
    if (choice := _choice(store, name, options)) is not None:
        talk(f"taking {choice.taken}: {choice.reason}")
        for refusal in choice.refused:
            talk(f"not {refusal.option}: {refusal.reason}")
    with shown_progress() as report:
        model = store.pull(name, report, options)
    talk(f"pulled {model.name} ({bytes_text(model.size_bytes)})")
    return model


def pull_as_json(store: Store, name: str, options: PullOptions | None = None) -> InstalledModel:
    """Pull `name` and print each step as one JSON object per line on stdout, the model last."""
    from llmserve.types import to_json

    def report(progress: PullProgress) -> None:
        free = {} if progress.free is None else {"free": progress.free}
        _print_event(stage=progress.stage, completed=progress.completed, total=progress.total, **free)

    if (choice := _choice(store, name, options)) is not None:
        refused = [{"option": refusal.option, "reason": refusal.reason} for refusal in choice.refused]
        _print_event(stage="choosing", option=choice.taken, reason=choice.reason, fits=choice.fits, refused=refused)
    model = store.pull(name, report, options)
    _print_event(stage="done", model=json.loads(to_json(model)))
    return model


def _choice(store: Store, name: str, options: PullOptions | None) -> VariantChoice | None:
    """Why this variant of the model; None where it is no model of the catalog or there is nothing to choose."""
    from llmserve.store.names import is_path

    if options is None or is_path(name):
        return None
    return store.wanted(name, options).choice


@contextmanager
def shown_progress() -> Iterator[Report]:
    """A report that a person can follow on stderr; nothing is shown before the first call."""
    with ExitStack() as stack:
        shown: Report | None = None

        def report(progress: PullProgress) -> None:
            nonlocal shown
            if progress.free is not None and progress.total is not None:
                left = progress.total - progress.completed
                talk(f"{bytes_text(left)} to download, {bytes_text(progress.free)} are free on the disk")
            if shown is None:
                shown = stack.enter_context(_bar() if sys.stderr.isatty() else _lines())
            shown(progress)

        yield report


def _print_event(**event: object) -> None:
    click.echo(json.dumps(event))


@contextmanager
def _bar() -> Iterator[Report]:
    """A progress bar with bytes, rate and time left, gone when the pull is done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        stage = ""
        task = bar.add_task("", total=None)

        def report(progress: PullProgress) -> None:
            nonlocal stage, task
            if progress.stage != stage:
                # A task of its own for each stage, so that rate and time left are those of the stage.
                bar.remove_task(task)
                stage, task = progress.stage, bar.add_task(progress.stage, total=progress.total)
            bar.update(task, completed=progress.completed, total=progress.total)

        yield report


@contextmanager
def _lines() -> Iterator[Report]:
    stage, told = "", 0

    def report(progress: PullProgress) -> None:
        nonlocal stage, told
        if progress.stage != stage:
            stage, told = progress.stage, 0
            talk(stage)
        if stage == _LOG_STAGE and progress.total:
            percent = 100 * progress.completed // progress.total
            if percent >= told + _LOG_PERCENT:
                told = percent - percent % _LOG_PERCENT
                talk(f"{stage}: {told}% of {bytes_text(progress.total)}")

    yield report
