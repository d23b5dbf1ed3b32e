"""How far a batch is: a bar for a person, lines for a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmserve.cli.terminal import talk

if TYPE_CHECKING:
    from llmserve.batches.journal import Journal

# A log gets a line for each of these shares of all lines.
_LOG_PERCENT = 10


class Speed:
    """Tokens per second since it was made: those that were written, or read where, as for embeddings, none are."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._started = time.monotonic()
        self._tokens = self._counted()

    def __call__(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-3)
        return f"{(self._counted() - self._tokens) / seconds:.1f} tokens/s"

    def _counted(self) -> int:
        usage = self._journal.usage
        return usage.output_tokens or usage.input_tokens


@contextmanager
def shown_lines(journal: Journal, total: int, speed: Speed) -> Iterator[Callable[[], None]]:
    """What to call when `journal` has grown, which will have `total` lines."""
    with _bar(journal, total, speed) if sys.stderr.isatty() else _lines(journal, total, speed) as told:
        yield told


@contextmanager
def _bar(journal: Journal, total: int, speed: Speed) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("lines  {task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task("", total=total, completed=len(journal))
        yield lambda: bar.update(task, completed=len(journal), description=speed())


@contextmanager
def _lines(journal: Journal, total: int, speed: Speed) -> Iterator[Callable[[], None]]:
    said = 100 * len(journal) // total

    def tell() -> None:
        nonlocal said
        percent = 100 * len(journal) // total
        if percent >= said + _LOG_PERCENT:
            said = percent - percent % _LOG_PERCENT
            talk(f"{len(journal)} of {total} lines are answered, {speed()}")

    yield tell
