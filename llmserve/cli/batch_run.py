"""A batch from the command line: its journal beside the output, its requests to a server, its files at the end."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from llmserve.batches.answers import Reply
from llmserve.batches.journal import Journal, WrongJournal
from llmserve.batches.lines import InputFile, InputLine, Summary
from llmserve.batches.work import Work, places_of
from llmserve.cli.batch_progress import Speed, shown_lines
from llmserve.cli.terminal import status, talk
from llmserve.errors import Conflict, StartupFailed
from llmserve.store.files import rename_durably, storage_errors

if TYPE_CHECKING:
    from llmserve.client import Gateway


class BatchRun:
    """The answers to `file`, which holds what `summary` says, on their way to `output`; a context.

    Raises `Conflict` where the output is there already, where its beginning belongs to other input, and where another
    process writes it; `InsufficientStorage` or `StartupFailed` where the disk does not take it.
    """

    def __init__(self, file: InputFile, summary: Summary, output: Path) -> None:
        self._file = file
        self._summary = summary
        self._output = output
        self._errors = output.with_name(f"{output.stem}.errors{output.suffix}")
        partial_output = output.with_name(f"{output.name}.partial")
        if not partial_output.exists():
            for path in (self._output, self._errors):
                if path.exists():
                    raise Conflict(f"{path} is there already", hint="remove it, or name another output")
        with storage_errors(f"write {partial_output}", StartupFailed):
            try:
                self._journal = Journal(partial_output, _key(file))
            except WrongJournal:
                raise Conflict(
                    f"{partial_output} was begun with another file or another model", hint="remove it to begin anew"
                ) from None
        self.begun = len(self._journal)
        self._speed: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not len(self._journal):
            self._journal.remove()
        elif len(self._journal) < self._summary.total:
            talk(f"{len(self._journal)} of {self._summary.total} lines are answered; the same command goes on")
        self._journal.close()

    def answer(self, gateway: Gateway) -> None:
        """Have every line answered by `gateway`. Raises what it raises; what was answered by then is kept."""
        speed = Speed(self._journal)
        for model in self._summary.models:
            with storage_errors("keep the answers", StartupFailed):
                self._answer(gateway, model, speed)
        self._speed = speed()

    def finish(self) -> int:
        """Write the output from the journal, and remove that; returns the exit code."""
        with storage_errors(f"write {self._output}", StartupFailed):
            if self._journal.failed:
                self._write(self._errors, ok=False)
            self._write(self._output, ok=True)
            self._journal.remove()
        failed = f", {self._journal.failed} with errors: {self._errors}" if self._journal.failed else ""
        speed = f", {self._speed}" if self._speed else ""
        talk(f"{self._summary.total} lines are answered{failed}{speed}")
        return 1 if self._journal.failed else 0

    def _answer(self, gateway: Gateway, model: str, speed: Speed) -> None:
        if all(line.number in self._journal for line in self._file.lines(model)):
            return
        with status(f"loading {model} ..."):
            gateway.load(model)
        places = _places(gateway, model)
        with shown_lines(self._journal, self._summary.total, speed) as told:
            asyncio.run(self._work(gateway, model, places, told))

    async def _work(self, gateway: Gateway, model: str, places: int, told: Callable[[], None]) -> None:
        async with gateway.background() as background:

            async def ask(line: InputLine) -> Reply:
                return await background.ask(line.url, line.body)

            await Work(ask, self._journal, lambda: places, told).run(self._file.lines(model))

    def _write(self, path: Path, *, ok: bool) -> None:
        beside = path.with_name(f"{path.name}.incoming")
        with beside.open("wb") as file:
            self._journal.copy(file.write, ok=ok)
            file.flush()
            os.fsync(file.fileno())
        rename_durably(beside, path)


def _places(gateway: Gateway, model: str) -> int:
    """How many requests for a model that is loaded are computed at once."""
    name = gateway.model(model)
    plan = next((status.plan for status in gateway.ps() if status.name == name), None)
    return 1 if plan is None else places_of(plan)


def _key(file: InputFile) -> str:
    """What makes it this input: its bytes, and the model that is asked instead of those in it."""
    digest = hashlib.sha256(repr(file.model).encode())
    with file.path.open("rb") as content:
        for piece in iter(partial(content.read, 1024 * 1024), b""):
            digest.update(piece)
    return digest.hexdigest()
