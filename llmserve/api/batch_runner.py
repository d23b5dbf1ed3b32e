"""Batches at work: checked as they come, then answered one after the other, beside what clients ask for."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from llmserve.api.batch_desk import BatchDesk
from llmserve.api.gateway import Gateway
from llmserve.api.inner_request import ask
from llmserve.api.tasks import cancel
from llmserve.batches.answers import Reply
from llmserve.batches.check import check, expire, missing_input
from llmserve.batches.journal import Journal
from llmserve.batches.lines import BadInput, InputFile, InputLine, Problem
from llmserve.batches.records import BatchRecord, Status
from llmserve.batches.work import Work, places_of
from llmserve.errors import LlmserveError, NotFound
from llmserve.fleet.waiting import set_within

if TYPE_CHECKING:
    from llmserve.batches.store import BatchStore

_log = logging.getLogger(__name__)

# Requests that are out at once while nobody knows how many the model computes at once.
_FIRST_PLACES = 4
# After the disk has failed.
_REST_SECONDS = 30.0
_SWEEP_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class _Current:
    """The batch that is being answered."""

    batch: BatchRecord
    journal: Journal
    work: asyncio.Task[None]


class BatchRunner:
    """Runs the batches of `desk`. `close` it; what it leaves is gone on with by the next.

    It sends requests through `app`, as a client that has time. Two tasks are all that happens: one checks the input of
    new batches, one answers them; both look at what the store says after each step, so that a crash loses nothing.
    """

    def __init__(self, gateway: Gateway, desk: BatchDesk) -> None:
        self._gateway = gateway
        self._desk = desk
        self._app: ASGIApp | None = None
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._current: _Current | None = None

    async def start(self, app: ASGIApp) -> None:
        """Go on with what an earlier run has left, if there is anything."""
        self._app = app
        # What is cut off is answered by the next server; nobody has to wait for it.
        self._gateway.on_drain.append(lambda: self._interrupt(lambda _: True))
        if self._gateway.resumes_batches and self._desk.was_used():
            try:
                await self.all()
            except (LlmserveError, OSError, sqlite3.Error) as error:
                _log.warning("batches of earlier runs are left alone: %s", error)

    async def close(self) -> None:
        """Stop working and return when every answer that has come is kept. Harmless when repeated."""
        for task in self._tasks:
            await cancel(task)

    # --- called by the routes ---

    async def add(self, batch: BatchRecord) -> None:
        """Have a new batch checked and run. Raises what `BatchStore.add` raises."""
        await self._desk.do(lambda store: store.add(batch))
        self._begin()

    async def find(self, id: str) -> BatchRecord:
        """A batch as it stands. Raises `NotFound`."""
        batch = await self._desk.do(lambda store: store.batch(id))
        self._begin()
        return self._as_it_stands(batch)

    async def all(self) -> list[BatchRecord]:
        """All batches as they stand, the oldest first."""
        batches = await self._desk.do(lambda store: store.batches())
        self._begin()
        return [self._as_it_stands(batch) for batch in batches]

    async def cancel(self, id: str) -> BatchRecord:
        """Ask for no more answers; those that are there become its files. One that is at its end stays as it is."""

        def change(batch: BatchRecord) -> BatchRecord:
            stoppable = batch.status in ("validating", "in_progress")
            return batch.now("cancelling", time.time()) if stoppable else batch

        batch = await self._desk.do(lambda store: store.change(id, change))
        if batch.status == "cancelling":
            self._interrupt(lambda current: current.id == id)
        self._begin()
        return self._as_it_stands(batch)

    async def delete_file(self, id: str) -> None:
        """Delete a file; a batch that reads it ends. Raises `NotFound`."""
        await self._desk.do(lambda store: store.delete_file(id))
        self._interrupt(lambda current: current.input_file_id == id)

    def _interrupt(self, concerned: Callable[[BatchRecord], bool]) -> None:
        """End the work on the present batch, if it is `concerned`; the store says what becomes of it."""
        if self._current is not None and concerned(self._current.batch):
            self._current.work.cancel()

    def _as_it_stands(self, batch: BatchRecord) -> BatchRecord:
        current = self._current
        if current is None or current.batch.id != batch.id or batch.is_final:
            return batch
        journal = current.journal
        return replace(batch, completed=journal.completed, failed=journal.failed, usage=journal.usage)

    # --- the two tasks ---

    def _begin(self) -> None:
        """There is something new to look at."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._repeat(step)) for step in (self._check_next, self._run_next)]
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _repeat(self, step: Callable[[], Awaitable[bool]]) -> None:
        """`step` for as long as it finds something to do, and again when there is news."""
        while True:
            news = self._news
            try:
                if not await step():
                    await set_within(news, _SWEEP_SECONDS)
            except Exception as error:
                # The disk, in all likelihood. What is kept stays, and what is not is asked for again.
                _log.error("batches rest for %.0f s", _REST_SECONDS, exc_info=error)
                await asyncio.sleep(_REST_SECONDS)

    async def _check_next(self) -> bool:
        batch = await self._next(lambda batch: batch.status == "validating")
        if batch is None:
            return False
        total, models = 0, tuple[str, ...]()
        problems: tuple[Problem, ...] = ()
        try:
            path = await self._desk.do(lambda store: store.path(batch.input_file_id))
            summary = await asyncio.to_thread(check, InputFile(path, batch.endpoint), self._gateway.store)
            total, models = summary.total, tuple(summary.models)
        except BadInput as error:
            problems = error.problems
        except (NotFound, FileNotFoundError):
            problems = (missing_input(),)
        except OSError as error:
            problems = (Problem("unreadable_file", f"the input file cannot be read: {error.strerror}"),)

        def change(batch: BatchRecord) -> BatchRecord:
            if batch.status != "validating":
                return batch  # Cancelled meanwhile.
            batch = replace(batch, total=total, models=models, problems=problems)
            return batch.now("failed" if problems else "in_progress", time.time())

        await self._desk.do(lambda store: store.change(batch.id, change))
        self._tell()
        return True

    async def _run_next(self) -> bool:
        await self._desk.do(lambda store: store.sweep())
        # Ending one is quick, and frees the disk.
        batch = await self._next(lambda batch: batch.status == "cancelling")
        batch = batch or await self._next(lambda batch: batch.status != "validating")
        if batch is None:
            return False
        journal = await self._desk.do(lambda store: store.journal(batch.id))
        try:
            if (end := await self._end_of(batch, journal)) is not None:
                status, problems = end
                _log.info("%s is %s: %d of %d lines are answered", batch.id, status, len(journal), batch.total)
                await self._desk.do(lambda store: _finish(store, batch.id, journal, status, problems))
        finally:
            await asyncio.to_thread(journal.close)
        return True

    async def _next(self, is_next: Callable[[BatchRecord], bool]) -> BatchRecord | None:
        unfinished = await self._desk.do(lambda store: store.unfinished())
        return next((batch for batch in unfinished if is_next(batch)), None)

    # --- one batch ---

    async def _end_of(self, batch: BatchRecord, journal: Journal) -> tuple[Status, tuple[Problem, ...]] | None:
        """Work on a batch until it has an end; None where somebody intervened, and the store has to be asked anew."""
        if batch.status == "cancelling":
            return "cancelled", ()
        try:
            path = await self._desk.do(lambda store: store.path(batch.input_file_id))
            file = InputFile(path, batch.endpoint)
            if len(journal) < batch.total and not await self._work(batch, file, journal):
                if batch.expires_at > time.time():
                    return None
                await asyncio.to_thread(expire, file, batch.models, journal)
                return "expired", ()
        except (NotFound, FileNotFoundError):
            return "failed", (missing_input(),)
        except BadInput as error:
            return "failed", error.problems

        def change(batch: BatchRecord) -> BatchRecord:
            return batch if batch.status == "cancelling" else batch.now("finalizing", time.time())

        batch = await self._desk.do(lambda store: store.change(batch.id, change))
        return ("cancelled" if batch.status == "cancelling" else "completed"), ()

    async def _work(self, batch: BatchRecord, file: InputFile, journal: Journal) -> bool:
        """Have every line answered; False where that was interrupted, or took too long."""
        work = asyncio.create_task(self._answer_all(batch, file, journal))
        self._current = _Current(batch, journal, work)
        try:
            await asyncio.wait({work}, timeout=max(0.0, batch.expires_at - time.time()))
        finally:
            await cancel(work)
            self._current = None
        if work.cancelled():
            return False
        work.result()
        return True

    async def _answer_all(self, batch: BatchRecord, file: InputFile, journal: Journal) -> None:
        async def answer(line: InputLine) -> Reply:
            return await self._answer(line, batch.id)

        for model in batch.models:
            places = partial(self._places, await asyncio.to_thread(self._name, model))
            await Work(answer, journal, places).run(file.lines(model))

    async def _answer(self, line: InputLine, client: str) -> Reply:
        if self._app is None:
            raise RuntimeError("the runner has not been started")
        reply = await ask(self._app, line.url, line.body, client)
        if reply.status >= 500 and self._gateway.draining:
            # That is this server's end, and nothing to hold against the line.
            await asyncio.Event().wait()
        return reply

    def _name(self, model: str) -> str:
        """What the fleet calls a model."""
        try:
            return self._gateway.store.find(model).name
        except LlmserveError:
            return model  # Removed since the check: its lines will say so.

    def _places(self, model: str) -> int:
        """How many lines for `model` may be out now: what it computes at once, or none where others need the room."""
        statuses = {status.name: status for status in self._gateway.fleet.status()}
        own = statuses.pop(model, None)
        if self._gateway.draining or any(other.state == "loading" and other.waiting for other in statuses.values()):
            return 0
        return _FIRST_PLACES if own is None or own.plan is None else places_of(own.plan)


def _finish(store: BatchStore, id: str, journal: Journal, status: Status, problems: tuple[Problem, ...]) -> None:
    store.finish(replace(store.batch(id), problems=problems), journal, status)
