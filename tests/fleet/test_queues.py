"""Requests that wait for a place: whose turn it is, who gives up, and what those are told who cannot wait."""

from __future__ import annotations

import asyncio

import pytest

from llmserve.errors import TooManyRequests, Unavailable
from llmserve.fleet.demand import Demand
from llmserve.fleet.lease import Lease
from tests.fleet.fakes import World, until

# One that is computed and one that waits in the worker.
PLACES = 2


@pytest.fixture
async def held(world: World) -> list[Lease]:
    """A lease on each place that alpha has."""
    world.configure(parallel=1, max_queue=5)
    return [await world.lease("alpha") for _ in range(PLACES)]


class Requests:
    """Requests that wait for alpha, and the order in which they got it."""

    def __init__(self, world: World) -> None:
        self.order: list[str] = []
        self._world = world

    async def ask(self, name: str, **terms: object) -> asyncio.Task[None]:
        """One more, named `<client><number>`, which waits or is refused by now."""
        demand = Demand(client=name[0], **terms)  # type: ignore[arg-type]
        task = asyncio.create_task(self._get(name, demand))
        await asyncio.sleep(0)  # of a model that is ready nothing has to be looked up
        return task

    async def _get(self, name: str, demand: Demand) -> None:
        lease = await self._world.fleet.lease("alpha", demand)
        self.order.append(name)
        lease.release()


def release(leases: list[Lease]) -> None:
    for lease in leases:
        lease.release()


async def test_clients_take_turns(world: World, held: list[Lease]) -> None:
    requests = Requests(world)
    tasks = [await requests.ask(name) for name in ("a1", "a2", "a3", "b1")]
    release(held)
    await asyncio.gather(*tasks)
    assert requests.order == ["a1", "b1", "a2", "a3"]


async def test_who_computes_nothing_takes_no_place(world: World, held: list[Lease]) -> None:
    requests = Requests(world)
    waiting = await requests.ask("a1")
    for _ in range(2):
        lookup = await world.fleet.lease("alpha", Demand(computes=False))
        lookup.release()
    assert (requests.order, world.status("alpha").wait_seconds) == ([], None)  # nor is it a measure for who waits
    lookup = await world.fleet.lease("alpha", Demand(computes=False))
    held.pop().release()
    await waiting
    lookup.release()
    release(held)


async def test_background_waits_behind_all_others(world: World, held: list[Lease]) -> None:
    requests = Requests(world)
    tasks = [await requests.ask("a1", background=True), await requests.ask("b1"), await requests.ask("a2")]
    release(held)
    await asyncio.gather(*tasks)
    assert requests.order == ["b1", "a2", "a1"]


async def test_background_leaves_a_part_of_the_places_to_others(world: World) -> None:
    world.configure(parallel=4, max_queue=50)
    requests = Requests(world)
    held = [await world.fleet.lease("alpha", Demand(background=True)) for _ in range(3)]
    waiting = await requests.ask("a1", background=True)
    others = [await world.lease("alpha") for _ in range(2)]
    late = [await requests.ask("b1"), await requests.ask("b2")]
    others[0].release()
    await asyncio.gather(*late)
    # Beside one other request there is room for one in the background.
    release(held[:2])
    assert world.fleet.status()[0].waiting == 1
    release(held)
    await waiting
    assert requests.order == ["b1", "b2", "a1"]


async def test_background_has_all_but_a_part_where_nobody_else_asks(world: World) -> None:
    world.configure(parallel=4, max_queue=50)
    requests = Requests(world)
    held = [await world.fleet.lease("alpha", Demand(background=True)) for _ in range(3)]
    waiting = await requests.ask("a1", background=True)
    assert world.fleet.status()[0].waiting == 1
    release(held[:1])
    await waiting
    release(held)


async def test_what_waits_in_the_background_makes_nobody_else_wait(world: World, held: list[Lease]) -> None:
    def wait() -> float:
        seconds = world.fleet.status()[0].wait_seconds
        assert seconds is not None
        return seconds

    world.clock.advance(10)
    held[0].release()
    await world.lease("alpha")
    alone = wait()
    requests = Requests(world)
    tasks = [await requests.ask(f"a{number}", background=True) for number in range(3)]
    assert wait() == alone
    tasks.append(await requests.ask("b1"))
    assert wait() > alone
    for task in tasks:
        task.cancel()


async def test_who_crowds_a_full_queue_makes_way(world: World, held: list[Lease]) -> None:
    requests = Requests(world)
    crowd = [await requests.ask(f"a{number}") for number in range(4)]
    newcomer = await requests.ask("b1")
    with pytest.raises(TooManyRequests) as refused:
        await crowd[3]
    assert refused.value.retry_after is not None
    with pytest.raises(TooManyRequests):
        await (await requests.ask("a9"))
    release(held)
    await asyncio.gather(*crowd[:3], newcomer)
    assert requests.order == ["a0", "b1", "a1", "a2"]


async def test_retry_after_is_what_the_queue_will_take(world: World, held: list[Lease]) -> None:
    world.clock.advance(6)
    held.pop().release()  # it had its place for six seconds
    held.append(await world.lease("alpha"))
    requests = Requests(world)
    tasks = [await requests.ask(f"{client}1") for client in "abcd"]
    assert world.status("alpha").wait_seconds == (4 + 1) * 6 / PLACES
    with pytest.raises(TooManyRequests) as refused:
        await (await requests.ask("e1"))
    assert refused.value.retry_after == (4 + 1) * 6 / PLACES
    release(held)
    await asyncio.gather(*tasks)


async def test_who_cannot_wait_long_enough_is_told_at_once(world: World, held: list[Lease]) -> None:
    world.clock.advance(6)
    held.pop().release()
    held.append(await world.lease("alpha"))
    with pytest.raises(Unavailable) as refused:
        await world.fleet.lease("alpha", Demand(max_wait_seconds=2.0))
    assert (refused.value.code, refused.value.retry_after) == ("queue_timeout", 6 / PLACES)
    assert world.waiting("alpha") == 0
    release(held)


@pytest.mark.parametrize("where", ["request", "settings"])
async def test_a_deadline_ends_the_wait_and_leaves_the_load(world: World, where: str) -> None:
    gate = world.gate()
    world.store.add("alpha", ready_when=str(gate))
    world.configure(max_queue_seconds=0.05 if where == "settings" else None)
    demand = Demand(max_wait_seconds=0.05) if where == "request" else None
    with pytest.raises(Unavailable) as refused:
        await world.fleet.lease("alpha", demand)
    assert refused.value.code == "queue_timeout"
    assert (world.state("alpha"), world.waiting("alpha")) == ("loading", 0)
    gate.touch()
    await until(lambda: world.state("alpha") == "ready")
