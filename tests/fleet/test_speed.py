"""The speed shown is that of the last seconds, and of nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from llmserve.fleet.meter import POLL_SECONDS, read_counters
from llmserve.fleet.record import Instance
from llmserve.fleet.speed import Speed
from llmserve.types import InstalledModel
from tests.fleet.fakes import World, fake_plan, until
from tests.fleet.virtual import VirtualLoop

MODEL = InstalledModel("x", (), "gguf", "Q4_0", "/x", 1, "0" * 64, "file:/x", 0.0)


def speed_of(*readings: tuple[float, int], now: float) -> float | None:
    speed = Speed("generated_tokens")
    for at, tokens in readings:
        speed.note(at, {"generated_tokens": tokens, "steps": 1})
    return speed.tokens_per_second(now)


def test_one_reading_says_nothing() -> None:
    assert speed_of(now=0) is None
    assert speed_of((0, 100), now=1) is None
    assert speed_of((5, 100), (5, 120), now=5) is None


def test_readings_of_the_last_seconds_count() -> None:
    assert speed_of((0, 0), (2, 100), now=2) == 50
    assert speed_of((0, 0), (100, 1000), (102, 1010), (104, 1040), now=105) == 10


def test_the_speed_of_some_time_ago_is_not_that_of_now() -> None:
    assert speed_of((0, 0), (2, 100), now=6) == 50
    assert speed_of((0, 0), (2, 100), now=8) is None


def test_an_embedding_model_reads() -> None:
    instance = Instance(MODEL, fake_plan(kind="embed"), worker=None)  # type: ignore[arg-type]
    for at in (0, 2):
        instance.speed.note(at, {"prompt_tokens": at * 100, "generated_tokens": 0})
    assert instance.speed.tokens_per_second(2) == 100


class Counting:
    """A worker that writes ten tokens a second."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.answers = True

    async def counters(self) -> dict[str, float] | None:
        now = asyncio.get_running_loop().time()
        self.asked.append(now)
        return {"generated_tokens": 10 * now} if self.answers else None


@pytest.fixture
def metered() -> tuple[Instance, Counting]:
    worker: Any = Counting()
    return Instance(MODEL, fake_plan(), worker), worker


def read(instance: Instance, *uses: tuple[float, bool]) -> None:
    """Read counters while a lease is taken (True) or given back at these times, and for 20 seconds more."""
    lease: Any = object()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading = asyncio.create_task(read_counters(instance, loop.time))
        for at, taken in uses:
            await asyncio.sleep(at - loop.time())
            (instance.leases.add if taken else instance.leases.discard)(lease)
            instance.last_used = loop.time()
        await asyncio.sleep(20)
        reading.cancel()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_counters_are_read_while_a_worker_is_used_and_once_after(metered: tuple[Instance, Counting]) -> None:
    instance, worker = metered
    read(instance, (9, True), (16.5, False))
    assert worker.asked[0] == POLL_SECONDS, "what it counted before anybody used it"
    assert worker.asked[1:] == [10, 12, 14, 16, 18]
    assert instance.speed.counts == {"generated_tokens": 180}
    assert instance.speed.tokens_per_second(18) == pytest.approx(10)


def test_a_worker_that_does_not_answer_is_asked_again(metered: tuple[Instance, Counting]) -> None:
    instance, worker = metered
    worker.answers = False
    read(instance)
    assert len(worker.asked) == 9
    assert instance.speed.counts == {}


async def test_the_status_of_a_busy_model_has_its_speed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmserve.fleet.meter.POLL_SECONDS", 0.05)
    lease = await world.lease("alpha")
    prompt = json.dumps({"tokens": 100_000, "delay": 0.001})

    def shown() -> bool:
        world.clock.advance(0.01)
        return bool(world.status("alpha").tokens_per_second)

    async with lease.client.stream("POST", "/v1/completions", json={"prompt": prompt, "stream": True}):
        await until(shown)
    lease.release()
    world.clock.advance(60)
    assert world.status("alpha").tokens_per_second is None
