"""Random schedules of requests, hang-ups, crashes, hangs, unloads and evictions, on a clock that only a test turns.

Each seed gives one schedule, always the same: what fails is run again by its number. `LLMSERVE_TEST_SCHEDULES` sets how
many there are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from llmserve.errors import (
    Conflict,
    DeadlineExceeded,
    ModelNotFound,
    TooManyRequests,
    Unavailable,
    WorkerDied,
)
from llmserve.fleet.demand import Demand
from llmserve.fleet.fleet import Fleet
from llmserve.settings import ModelGroup, ModelSettings, Settings
from tests.fleet.fakes import GIB, NoHistory
from tests.fleet.virtual import VirtualLoop, VirtualWorker, VirtualWorld

SCHEDULES = int(os.environ.get("LLMSERVE_TEST_SCHEDULES", "1000"))
MODELS = ("alpha", "beta", "gamma", "delta")
EXPECTED = (TooManyRequests, Unavailable, WorkerDied, DeadlineExceeded, ModelNotFound)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The fleet speaks of every crash, and here are thousands."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Schedule:
    """One seed's schedule: what happens when, and what became of each request."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        sizes = {name: rng.choice((1, 2, 3, 4)) * GIB for name in MODELS}
        self.world = VirtualWorld(rng, sizes, total=rng.choice((4, 6, 8)) * GIB, fragility=rng.choice((0.0, 0.1, 0.4)))
        settings = Settings(
            parallel=rng.choice((1, 2, 4)),
            max_queue=rng.choice((0, 2, 8)),
            keep_alive=rng.choice((-1.0, 0.0, 2.0, 30.0)),
            load_timeout=10.0,
            models=(ModelSettings("alpha", keep_alive=5.0),) if rng.random() < 0.3 else None,
            groups=(ModelGroup(("alpha", "beta")),) if rng.random() < 0.3 else None,
        )
        self.world.apart = settings.groups[0].models if settings.groups else ()
        loop = asyncio.get_running_loop()
        world: Any = self.world
        history: Any = NoHistory()
        self.fleet = Fleet(world, settings, launcher=world, machine=world.machine, clock=loop.time, history=history)
        self.outcomes: Counter[int] = Counter()
        self.ends: Counter[str] = Counter()

    async def run(self) -> None:
        rng = self.rng
        requests = [asyncio.create_task(self.request(number)) for number in range(rng.randrange(5, 40))]
        others = [asyncio.create_task(self.disturb()) for _ in range(rng.randrange(6))]
        leaving = asyncio.create_task(self.hang_up(requests))
        if rng.random() < 0.3:
            await asyncio.sleep(rng.uniform(0, 60))
        else:
            await asyncio.wait(requests)
        self.world.closing = True
        await self.fleet.close(rng.choice((0.0, 5.0)))
        await asyncio.wait([*requests, *others, leaving])
        for task in (*others, leaving):
            task.result()
        self.check(requests)

    async def request(self, number: int) -> None:
        rng = self.rng
        await asyncio.sleep(rng.uniform(0, 60))
        demand = Demand(
            client=rng.choice("xyz"),
            background=rng.random() < 0.2,
            max_wait_seconds=rng.choice((None, None, 1.0, 10.0)),
            keep_alive_seconds=rng.choice((None, None, None, 0.0, 20.0)),
        )
        outcome = "hung up"
        try:
            outcome = await self.generation(rng.choice((*MODELS, "omega") if rng.random() < 0.05 else MODELS), demand)
        except EXPECTED as error:
            outcome = type(error).__name__
        finally:
            self.outcomes[number] += 1
            self.ends[outcome] += 1

    async def generation(self, model: str, demand: Demand) -> str:
        lease = await self.fleet.lease(model, demand)
        worker: Any = lease._worker
        worker.holds += 1
        try:
            if worker.holds > lease.plan.parallel + max(1, lease.plan.parallel // 4):
                self.world.violations.append(f"{worker.holds} requests on {model}")
            dying = asyncio.create_task(lease.died.wait())
            await asyncio.wait({dying}, timeout=self.rng.choice((0.0, 0.2, 2.0, 8.0)))
            dying.cancel()
            if lease.died.is_set():
                raise lease.reason()
            return "answered"
        finally:
            worker.holds -= 1
            lease.release()

    async def hang_up(self, requests: list[asyncio.Task[None]]) -> None:
        for request in requests:
            if self.rng.random() < 0.2:
                await asyncio.sleep(self.rng.uniform(0, 5))
                request.cancel()

    async def disturb(self) -> None:
        """A crash, a hang or an unload at some time."""
        await asyncio.sleep(self.rng.uniform(0, 70))
        alive: list[VirtualWorker] = [worker for worker in self.world.workers if worker.alive]
        what = self.rng.choice(("crash", "hang", "stop"))
        if what == "stop":
            with suppress(Conflict):
                await self.fleet.stop(self.rng.choice(MODELS))
        elif alive and what == "crash":
            self.rng.choice(alive).die()
        elif alive:
            self.rng.choice(alive).hangs_since = asyncio.get_running_loop().time()

    def check(self, requests: list[asyncio.Task[None]]) -> None:
        assert self.world.violations == []
        never_began = sum(request.cancelled() for request in requests) - self.ends["hung up"]
        assert set(self.outcomes.values()) <= {1}
        assert len(self.outcomes) + never_began == len(requests)
        for request in requests:
            assert request.cancelled() or request.exception() is None
        assert {status.state for status in self.fleet.status()} <= {"failed"}
        assert sum(status.waiting for status in self.fleet.status()) == 0
        assert [worker.model for worker in self.world.workers if worker.alive] == []
        assert [worker.model for worker in self.world.workers if worker.started and not worker.client.closed] == []
        assert asyncio.all_tasks() == {asyncio.current_task()}


def run(seed: int) -> Counter[str]:
    async def main() -> Counter[str]:
        schedule = Schedule(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("llmserve.fleet.loading.make_plan", schedule.world.plan)
            await schedule.run()
        return schedule.ends

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        try:
            return runner.run(main())
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_every_request_of_every_schedule_has_one_end_and_nothing_is_left() -> None:
    ends: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        ends += run(seed)
    # All that can happen does.
    assert ends.keys() >= {
        "answered", "hung up", "TooManyRequests", "Unavailable", "WorkerDied", "DeadlineExceeded", "ModelNotFound"
    }  # fmt: skip
    assert ends["answered"] > ends.total() / 4


def test_a_schedule_goes_the_same_way_each_time() -> None:
    assert run(7) == run(7)
