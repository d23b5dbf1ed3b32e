"""When batches run and when they rest, with an application that only answers."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from llmserve.api import batch_runner
from llmserve.api.batch_desk import BatchDesk
from llmserve.api.batch_runner import BatchRunner
from llmserve.api.gateway import Gateway
from llmserve.batches import work
from llmserve.batches.answers import Reply
from llmserve.batches.records import BatchRecord
from llmserve.batches.store import BatchStore
from llmserve.fleet.status import ModelStatus
from llmserve.openai.json import dump_json
from llmserve.settings import Settings
from tests.api.fakes import MODEL, PLAN, FakeFleet, FakeStore
from tests.api.test_batches import ids, line

LINES = 12


class App:
    """Answers every request with its own text, while `door` is open."""

    def __init__(self) -> None:
        self.asked = 0
        self.out = 0
        self.most_out = 0
        self.status = 200
        self.door = asyncio.Event()
        self.door.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            await receive()
            await self.door.wait()
        finally:
            self.out -= 1
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"x-request-id", b"req-1")]})
        await send({"type": "http.response.body", "body": dump_json({"n": 1})})


class World:
    """A runner with everything around it; `again` is its next life."""

    def __init__(self, home: Path) -> None:
        self.app = App()
        self.statuses: list[ModelStatus] = []
        self.looks = 0
        self._home = home
        self._make()

    def _make(self, *, resumes_batches: bool = True) -> None:
        store = FakeStore()
        fleet = FakeFleet(store, self._home / "none.sock")
        fleet.status = self._status  # type: ignore[method-assign]
        settings = Settings(home=self._home)
        self.gateway = Gateway(fleet, store, settings, resumes_batches=resumes_batches)  # type: ignore[arg-type]
        self.desk = BatchDesk(settings)
        self.runner = BatchRunner(self.gateway, self.desk)

    def _status(self) -> tuple[ModelStatus, ...]:
        self.looks += 1
        return tuple(self.statuses)

    async def again(self, **options: bool) -> None:
        await self.close()
        self._make(**options)
        await self.runner.start(self.app)

    async def close(self) -> None:
        await self.runner.close()
        await self.desk.close()

    async def add(self, seconds: float = 3600.0) -> str:
        """A batch of `LINES` lines, which expires in `seconds`."""
        content = b"\n".join(dump_json(line(number)) for number in range(LINES))

        def upload(store: BatchStore) -> str:
            upload = store.upload()
            upload.write(content)
            return store.keep(upload, "in.jsonl", None).id

        file = await self.desk.do(upload)
        now = time.time()
        batch = BatchRecord("batch_1", "/v1/chat/completions", file, "1h", now, now + seconds)
        await self.runner.add(batch)
        return batch.id

    async def batch(self) -> BatchRecord:
        return await self.runner.find("batch_1")

    async def lines_of(self, id: str | None) -> list[Any]:
        content = await self.desk.do(lambda store: store.path(str(id)).read_bytes())
        return [json.loads(text) for text in content.splitlines()]

    async def final(self) -> BatchRecord:
        while not (batch := await self.batch()).is_final:  # noqa: ASYNC110 (as for a client, no event tells it)
            await asyncio.sleep(0.002)
        return batch


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(work, "_LOOK_SECONDS", 0.002)
    world = World(tmp_path)
    await world.runner.start(world.app)
    yield world
    await world.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (what it waits for has no event)
            await asyncio.sleep(0.002)


def status(name: str, state: Any, *, waiting: int = 0, parallel: int = 4, kind: Any = "generate") -> ModelStatus:
    plan = replace(PLAN, parallel=parallel, kind=kind) if state == "ready" else None
    nothing = dict.fromkeys(
        ("progress", "pid", "loaded_seconds", "idle_seconds", "unload_in_seconds", "retry_in_seconds")
    )
    return ModelStatus(
        name=name,
        state=state,
        plan=plan,
        leases=0,
        waiting=waiting,
        restarts=0,
        last_error=None,
        log_tail=None,
        **nothing,
    )


@pytest.mark.parametrize(
    ("own", "places"),
    [
        (None, 4),
        (status(MODEL.name, "loading", waiting=1), 4),
        (status(MODEL.name, "ready", parallel=7), 7),
        (status(MODEL.name, "ready", parallel=1, kind="embed"), LINES),
    ],
)
async def test_as_many_lines_are_out_as_the_model_computes(world: World, own: ModelStatus | None, places: int) -> None:
    world.statuses = [] if own is None else [own]
    world.app.door.clear()
    await world.add()
    await until(lambda: world.app.out == places)
    looks = world.looks
    await until(lambda: world.looks > looks + 3 or places == LINES)
    assert world.app.out == places
    world.app.door.set()
    assert (await world.final()).completed == LINES


async def test_it_rests_while_somebody_waits_for_another_model(world: World) -> None:
    world.statuses = [status("other:1b", "loading", waiting=1)]
    await world.add()
    await until(lambda: world.looks > 5)
    assert world.app.asked == 0
    # Nobody waits for that one any more.
    world.statuses = [status("other:1b", "loading", waiting=0)]
    assert (await world.final()).status == "completed"


async def test_what_is_not_answered_in_time_has_expired(world: World) -> None:
    world.app.door.clear()
    await world.add(seconds=0.5)
    batch = await world.final()
    assert (batch.status, batch.completed, batch.failed) == ("expired", 0, LINES)
    assert "expired" in batch.reached
    errors = await world.lines_of(batch.error_file_id)
    assert ids(errors) == [f"id {number}" for number in range(LINES)]
    assert {error["error"]["code"] for error in errors} == {"batch_expired"}
    assert world.app.out == 0


async def test_a_private_server_leaves_batches_alone(world: World) -> None:
    world.app.door.clear()
    await world.add()
    await until(lambda: world.app.out)
    await world.again(resumes_batches=False)
    assert not world.desk._store
    await world.again()
    world.app.door.set()
    assert (await world.final()).status == "completed"


async def test_nothing_is_made_where_there_are_no_batches(world: World) -> None:
    await world.again()
    assert not world.desk.was_used()


async def test_an_answer_of_a_server_that_ends_counts_for_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for one that has failed often enough.
    monkeypatch.setattr(Reply, "retry_seconds", lambda *_: None)
    world.app.door.clear()
    await world.add()
    await until(lambda: world.app.out)
    world.gateway.draining = True
    world.app.status = 502
    world.app.door.set()
    await until(lambda: not world.app.out)
    world.app.status = 200
    await world.again()
    batch = await world.final()
    assert (batch.completed, batch.failed) == (LINES, 0)


async def test_a_disk_that_fails_costs_time_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_runner, "_REST_SECONDS", 0.01)
    failures = [sqlite3.OperationalError("disk I/O error"), OSError("no room")]
    finish = BatchStore.finish

    def failing(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        finish(*arguments)

    monkeypatch.setattr(BatchStore, "finish", failing)
    await world.add()
    batch = await world.final()
    assert (batch.status, batch.completed, failures, world.app.asked) == ("completed", LINES, [], LINES)
