"""More models than memory: who is unloaded for whom."""

from __future__ import annotations

import asyncio

import pytest

from llmserve.errors import Unavailable
from tests.fleet.fakes import GIB, World, ask, until

SIZE = 4 * GIB


@pytest.fixture
def small(world: World) -> World:
    """A world with memory for two of its three models, and for no more than one and a half beside the largest."""
    for name in ("alpha", "beta", "gamma"):
        world.store.add(name, size_bytes=SIZE)
    world.machine.total = int(2.6 * SIZE)
    return world


async def test_models_that_fit_stay_together(small: World) -> None:
    await small.load("alpha")
    await small.load("beta")
    assert small.loaded() == ["alpha", "beta"]


@pytest.mark.parametrize(("used_last", "evicted"), [("alpha", "beta"), ("beta", "alpha")])
async def test_the_least_recently_used_model_makes_room(small: World, used_last: str, evicted: str) -> None:
    await small.load("alpha")
    await small.load("beta")
    small.clock.advance(10)
    (await small.lease(used_last)).release()
    small.clock.advance(10)
    await small.load("gamma")
    assert small.loaded() == sorted({"gamma", used_last})
    status = small.status("gamma")
    assert status.plan is not None
    assert status.plan.fits
    assert evicted not in small.loaded()


async def test_three_models_in_turn_are_all_answered(small: World) -> None:
    for name in ("alpha", "beta", "gamma") * 2:
        lease = await small.lease(name)
        assert await ask(lease, tokens=[name]) == name
        lease.release()
        small.clock.advance(1)
        assert len(small.loaded()) <= 2
    turnover = small.fleet.turnover
    assert turnover.loads == {"alpha": 2, "beta": 2, "gamma": 2}
    assert turnover.unloads == {("alpha", "room"): 2, ("beta", "room"): 1, ("gamma", "room"): 1}


async def test_a_model_in_use_is_not_evicted_even_if_it_was_used_longest_ago(small: World) -> None:
    lease = await small.lease("alpha")
    small.clock.advance(10)
    await small.load("beta")
    await small.load("gamma")
    assert small.loaded() == ["alpha", "gamma"]
    assert await ask(lease, tokens=["here"]) == "here"


async def test_a_load_waits_for_a_model_in_use_to_become_idle(small: World) -> None:
    alpha, beta = await small.lease("alpha"), await small.lease("beta")
    waiting = asyncio.create_task(small.lease("gamma"))
    await until(lambda: small.state("gamma") == "loading")
    assert await ask(alpha, tokens=["a"]) + await ask(beta, tokens=["b"]) == "ab"
    assert small.state("gamma") == "loading"
    beta.release()
    assert (await waiting).model.name == "gamma"
    assert small.loaded() == ["alpha", "gamma"]


async def test_a_load_that_waits_for_room_lets_a_smaller_one_pass(small: World) -> None:
    small.store.add("delta", size_bytes=GIB // 2)
    await small.lease("alpha")
    beta = await small.lease("beta")
    waiting = asyncio.create_task(small.lease("gamma"))
    await until(lambda: small.state("gamma") == "loading")
    assert (await small.lease("delta")).model.name == "delta"
    assert not waiting.done()
    beta.release()
    assert (await waiting).model.name == "gamma"


async def test_a_load_that_finds_no_room_in_time_is_told_to_come_again(small: World) -> None:
    alpha = await small.lease("alpha")
    await small.lease("beta")
    small.store.add("delta", size_bytes=GIB // 2)
    await small.load("delta")
    waiting = asyncio.create_task(small.lease("gamma"))
    await until(lambda: small.state("gamma") == "loading")
    small.clock.advance(61)
    # A model that becomes idle wakes it; the room that one leaves is too small.
    (await small.lease("delta")).release()
    with pytest.raises(Unavailable) as refused:
        await waiting
    assert refused.value.retry_after is not None
    assert small.state("gamma") is None
    assert await ask(alpha, tokens=["unharmed"]) == "unharmed"


async def test_a_model_larger_than_the_machine_is_tried_alone(small: World) -> None:
    small.store.add("huge", size_bytes=10 * SIZE)
    await small.load("alpha")
    await small.load("huge")
    assert small.loaded() == ["huge"]
    status = small.status("huge")
    assert status.plan is not None
    assert not status.plan.fits


async def test_loads_happen_one_at_a_time(small: World) -> None:
    gate = small.gate()
    small.store.add("alpha", size_bytes=SIZE, ready_when=str(gate))
    first = asyncio.create_task(small.lease("alpha"))
    await until(lambda: small.pid("alpha") is not None)
    second = asyncio.create_task(small.lease("beta"))
    await until(lambda: small.state("beta") == "loading")
    status = small.status("beta")
    assert status.pid is None
    gate.touch()
    assert {(await first).model.name, (await second).model.name} == {"alpha", "beta"}
