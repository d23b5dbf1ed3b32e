"""A pull, and how it shows itself: a bar for a person, lines for a log, events for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from llmserve.cli.terminal import age_text, bytes_text, talk

if TYPE_CHECKING:
    from llmserve.settings import Settings
    from llmserve.store.budget import Budget, Kept
    from llmserve.store.options import PullOptions
    from llmserve.store.origins import Wanted
    from llmserve.store.progress import PullProgress, Report
    from llmserve.store.store import Store
    from llmserve.types import InstalledModel

# A log gets a line per stage and, for what takes minutes, one per this share of the bytes.
_LOG_STAGE = "downloading"
_LOG_PERCENT = 10


def pull(store: Store, name: str, options: PullOptions, settings: Settings) -> InstalledModel:
    """Pull `name` and keep the person informed on stderr: what is chosen and why, what it takes, and how far it is.

    Where the disk budget of the settings needs it, the person is asked which models may go.
    """
    talk(f"pulling {name}")
    wanted = _wanted(store, name, options)
    if wanted is not None and (choice := wanted.choice) is not None:
        talk(f"taking {choice.taken}: {choice.reason}")
        for refusal in choice.refused:
            talk(f"not {refusal.option}: {refusal.reason}")
    try:
        with shown_progress() as report:
            model = store.pull(name, report, replace(options, budget=budget(settings, report)))
    except KeyboardInterrupt:
        if report.stage == "downloading" and wanted is not None and _goes_on(wanted):
            talk("stopped; what came is kept, and the same command goes on from there")
        raise
    size = bytes_text(model.size_bytes)
    talk(f"pulled {model.name} ({size})" if report.stage else f"{model.name} is here already ({size})")
    return model


def pull_as_json(store: Store, name: str, options: PullOptions, settings: Settings) -> InstalledModel:
    """Pull `name` and print each step as one JSON object per line on stdout, the model last. Nobody is asked."""
    from llmserve.store.serving import budget_of
    from llmserve.types import to_json

    def report(progress: PullProgress) -> None:
        free = {} if progress.free is None else {"free": progress.free}
        _print_event(stage=progress.stage, completed=progress.completed, total=progress.total, **free)

    wanted = _wanted(store, name, options)
    if wanted is not None and (choice := wanted.choice) is not None:
        refused = [{"option": refusal.option, "reason": refusal.reason} for refusal in choice.refused]
        _print_event(stage="choosing", option=choice.taken, reason=choice.reason, fits=choice.fits, refused=refused)
    model = store.pull(name, report, replace(options, budget=budget_of(settings)))
    _print_event(stage="done", model=json.loads(to_json(model)))
    return model


def budget(settings: Settings, shown: ShownProgress) -> Budget | None:
    """The disk budget of the settings, with the question to the person; None where they state none."""
    if settings.disk_budget is None:
        return None
    from llmserve.store.budget import Budget

    def may_remove(leaving: tuple[Kept, ...]) -> bool:
        shown.clear()
        for model in leaving:
            talk(f"to make room: {model.name} ({bytes_text(model.size_bytes)}, last used {age_text(model.used_at)})")
        if settings.make_room:
            return True
        is_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
        return is_terminal and click.confirm("remove them?", err=True)

    return Budget(settings.disk_budget, may_remove)


def _wanted(store: Store, name: str, options: PullOptions) -> Wanted | None:
    """What is to be pulled; None for a path."""
    from llmserve.store.names import is_path

    return None if is_path(name) else store.wanted(name, options)


def _goes_on(wanted: Wanted) -> bool:
    """Whether a download that was stopped goes on next time; pip begins anew."""
    from llmserve.store.names import HubReference, UrlReference

    return isinstance(wanted.origin, HubReference | UrlReference)


class ShownProgress:
    """A report that a person can follow on stderr; nothing is shown before the first call."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._shown: Report | None = None
        self.stage: str | None = None

    def __call__(self, progress: PullProgress) -> None:
        self.stage = progress.stage
        if progress.free is not None and progress.total is not None:
            left = progress.total - progress.completed
            talk(f"{bytes_text(left)} to download, {bytes_text(progress.free)} are free on the disk")
        if self._shown is None:
            self._shown = self._stack.enter_context(_bar() if sys.stderr.isatty() else _lines())
        self._shown(progress)

    def clear(self) -> None:
        """Take away what is shown, for something else to be written; the next call shows it again."""
        self._shown = None
        self._stack.close()


@contextmanager
def shown_progress() -> Iterator[ShownProgress]:
    """A report to the person, gone at the end of the block."""
    shown = ShownProgress()
    try:
        yield shown
    finally:
        shown.clear()


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
