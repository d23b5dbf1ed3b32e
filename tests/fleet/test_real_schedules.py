"""Random schedules as in `test_schedules.py`, with real processes, sockets and kill -9.

`LLMSERVE_TEST_REAL_SCHEDULES` sets how many there are. Each begins and ends with nothing: the fixture `world` looks for
what is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from llmserve.engines.command import Command
from llmserve.errors import Conflict, TooManyRequests, Unavailable, WorkerDied
from llmserve.fleet.demand import Demand
from llmserve.types import EnginePlan, InstalledModel
from tests.fleet.fakes import GIB, World

SCHEDULES = int(os.environ.get("LLMSERVE_TEST_REAL_SCHEDULES", "10"))
WORKER = Path(__file__).parents[2] / "benchmarks" / "stream_worker.py"
MODELS = ("alpha", "beta", "gamma")


def launch(plan: EnginePlan, model: InstalledModel, socket: Path) -> Command:
    return Command((sys.executable, "-P", str(WORKER), "--socket", str(socket)), {})


async def generation(world: World, rng: random.Random, demand: Demand) -> str:
    """One request from its lease to its last event."""
    lease = await world.fleet.lease(rng.choice(MODELS), demand)
    try:
        connection = await lease.connect(5)
        try:
            script = json.dumps({"events": rng.randrange(1, 40), "interval": 0.005})
            body = json.dumps({"prompt": script}).encode()
            connection.send("POST", b"/v1/completions", [(b"Content-Length", str(len(body)).encode())], body)
            received = b""
            while not connection.complete:
                await connection.more(20)
                received += connection.take()
            received += connection.take()
            return "answered" if received.endswith(b"data: [DONE]\n\n") else "cut short"
        finally:
            connection.abort()
    except httpx2.TransportError:
        await lease.died.wait()
        return "worker died"
    finally:
        lease.release()


async def request(world: World, rng: random.Random) -> str:
    await asyncio.sleep(rng.uniform(0, 1.5))
    demand = Demand(client=rng.choice("xyz"), max_wait_seconds=rng.choice((None, 0.2)))
    try:
        return await generation(world, rng, demand)
    except (TooManyRequests, Unavailable, WorkerDied) as error:
        return type(error).__name__


async def disturb(world: World, rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0, 2))
    if rng.random() < 0.3:
        with suppress(Conflict):
            await world.fleet.stop(rng.choice(MODELS))
        return
    pids = [status.pid for status in world.fleet.status() if status.pid is not None]
    if pids:
        with suppress(ProcessLookupError):
            os.kill(rng.choice(pids), signal.SIGKILL)


@pytest.mark.parametrize("seed", range(SCHEDULES))
async def test_a_schedule_leaves_nothing_and_ends_every_request_once(world: World, seed: int) -> None:
    rng = random.Random(seed)
    for name in MODELS:
        world.store.add(name, size_bytes=4 * GIB)
    world.machine.total = int(2.6 * 4 * GIB)
    world.launch = launch
    world.configure(parallel=2, max_queue=rng.choice((1, 8)), keep_alive=rng.choice((0.0, 60.0)))
    requests = [asyncio.create_task(request(world, rng)) for _ in range(rng.randrange(8, 20))]
    disturbances = [asyncio.create_task(disturb(world, rng)) for _ in range(rng.randrange(4))]
    await asyncio.sleep(rng.uniform(0, 2))
    for task in rng.sample(requests, 3):
        task.cancel()
    await asyncio.wait([*requests, *disturbances])
    for disturbance in disturbances:
        disturbance.result()
    ends = Counter("hung up" if task.cancelled() else task.result() for task in requests)
    assert ends["cut short"] == 0
    assert ends.total() == len(requests)
    assert sum(status.leases + status.waiting for status in world.fleet.status()) == 0
