"""The decision whether to start, to unload or to wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from llmserve.fleet.lease import Lease
from llmserve.fleet.record import Instance
from llmserve.fleet.room import Room, find_room, out_of_memory
from llmserve.fleet.worker import Worker
from llmserve.types import InstalledModel
from tests.fleet.fakes import GIB, fake_memory, fake_plan


def instance(name: str, ram: int = 0, gpu: int = 0, *, leases: int = 0, last_used: float = 0.0) -> Instance:
    model = InstalledModel(name, (), "gguf", "Q4_0", "/nowhere", 1, "0" * 64, "file:/nowhere", 0.0)
    plan = fake_plan(fake_memory("ram", ram), fake_memory("cuda:0", gpu))
    held = cast("set[Lease]", {object() for _ in range(leases)})
    return Instance(model, plan, cast(Worker, SimpleNamespace()), 0.0, last_used, held)


@pytest.mark.parametrize(
    ("ram", "gpu", "loaded", "room"),
    [
        pytest.param((5, 4), (0, 8), [], Room(), id="nothing to unload"),
        pytest.param((5, None), (0, 8), [instance("a", ram=4)], Room(), id="what is free is not known"),
        pytest.param((5, 4), (0, 8), [instance("a", ram=4)], Room(frozenset("a")), id="one idle model"),
        pytest.param((5, 4), (0, 8), [instance("a", ram=4, leases=1)], Room(blocked=True), id="one in use"),
        pytest.param((5, 4), (0, 8), [instance("a", gpu=4, leases=1)], Room(), id="in use on another device"),
        pytest.param((5, 4), (0, 8), [instance("a", gpu=4)], Room(), id="idle on another device"),
        pytest.param(
            (5, 4),
            (9, 8),
            [instance("a", ram=2), instance("b", gpu=2), instance("c", ram=2, last_used=1)],
            Room(frozenset("ab")),
            id="one victim for each device",
        ),
        pytest.param(
            (9, 4),
            (0, 8),
            [instance("a", ram=2), instance("b", ram=2)],
            Room(frozenset("ab")),
            id="all, and not enough",
        ),
        pytest.param(
            (9, 4),
            (0, 8),
            [instance("a", ram=2), instance("b", ram=4, leases=1)],
            Room(blocked=True),
            id="the idle ones would not do and stay",
        ),
    ],
)
def test_a_plan_that_does_not_fit(
    ram: tuple[int, int | None], gpu: tuple[int, int | None], loaded: list[Instance], room: Room
) -> None:
    plan = fake_plan(fake_memory("ram", *ram), fake_memory("cuda:0", *gpu), fits=False)
    assert find_room(plan, loaded) == room


def test_a_plan_that_fits_unloads_nobody() -> None:
    plan = fake_plan(fake_memory("ram", 5, 4), fits=True)
    assert find_room(plan, [instance("a", ram=4)]) == Room()


def test_out_of_memory_names_the_devices_that_are_short() -> None:
    plan = fake_plan(fake_memory("ram", GIB, 2 * GIB), fake_memory("cuda:0", 8 * GIB, 3 * GIB), fits=False)
    error = out_of_memory(plan, "alpha")
    assert error.status == 507
    assert "8.0 GiB on cuda:0 where 3.0 GiB are free" in error.message
    assert "ram" not in error.message
