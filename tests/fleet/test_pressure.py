"""Memory that others need."""

from __future__ import annotations

import pytest

from llmserve.fleet.pressure import Pressure, is_short, reserving
from llmserve.types import MemoryInfo
from tests.fleet.fakes import GIB, FakeMachine, World, until


@pytest.mark.parametrize(
    ("available", "reserve", "short"),
    [
        (GIB, None, False),
        (100 * 2**20, None, True),
        (GIB, 2 * GIB, True),
        (2 * GIB, 2 * GIB, False),
        (0, 0, False),
        (None, None, False),
    ],
)
def test_what_is_short(available: int | None, reserve: int | None, short: bool) -> None:
    assert is_short(MemoryInfo(8 * GIB, available, None), reserve) is short


def test_the_planner_does_not_see_what_is_kept_free() -> None:
    machine = FakeMachine(8 * GIB)
    assert reserving(machine, 3 * GIB)().memory.available == 5 * GIB
    assert reserving(machine, 9 * GIB)().memory.available == 0


async def test_idle_models_make_way_one_by_one_and_those_in_use_stay(world: World) -> None:
    for name in ("alpha", "beta", "gamma"):
        world.store.add(name, size_bytes=GIB)
    world.configure(memory_reserve=2 * GIB)
    await world.lease("alpha")
    await world.load("beta")
    world.clock.advance(1)
    await world.load("gamma")
    pressure = Pressure(world.fleet._registry, world.machine, 2 * GIB)
    await pressure.relieve()
    assert world.loaded() == ["alpha", "beta", "gamma"]
    world.machine.total = 4 * GIB
    await pressure.relieve()
    await until(lambda: world.loaded() == ["alpha", "gamma"])
    world.machine.total = 3 * GIB
    await pressure.relieve()
    await until(lambda: world.loaded() == ["alpha"])
    world.machine.total = GIB
    await pressure.relieve()
    assert world.state("alpha") == "ready"
