"""Requests that only one kind of model can answer."""

from __future__ import annotations

import asyncio

import pytest

from llmserve.errors import TooManyRequests, WrongModelKind
from llmserve.types import ModelKind
from tests.fleet.fakes import World, children, until


@pytest.mark.parametrize(("kind", "other"), [("generate", "embed"), ("embed", "generate")])
async def test_the_wrong_kind_is_refused_and_loads_nothing(world: World, kind: ModelKind, other: ModelKind) -> None:
    world.store.add("alpha", kind=kind)
    with pytest.raises(WrongModelKind) as caught:
        await world.lease("alpha", other)
    assert caught.value.message == f"`alpha` is {'a generating' if kind == 'generate' else 'an embedding'} model"
    assert (children(), world.state("alpha")) == ([], None)
    assert (await world.lease("alpha", kind)).plan.kind == kind


async def test_a_loaded_model_refuses_the_wrong_kind_at_once(world: World) -> None:
    await world.load("alpha")
    with pytest.raises(WrongModelKind):
        await world.lease("alpha", "embed")
    assert world.status("alpha").leases == 0


async def test_the_wrong_kind_does_not_disturb_the_load_of_the_right_one(world: World) -> None:
    gate = world.gate()
    world.store.add("alpha", ready_when=str(gate))
    wrong = [asyncio.create_task(world.lease("alpha", "embed")) for _ in range(3)]
    right = [asyncio.create_task(world.lease("alpha", kind)) for kind in ("generate", None)]
    refused = await asyncio.gather(*wrong, return_exceptions=True)
    assert [type(error) for error in refused] == [WrongModelKind] * 3
    await until(lambda: world.waiting("alpha") == 2)
    gate.touch()
    assert {lease.model.name for lease in await asyncio.gather(*right)} == {"alpha"}


async def test_embedding_requests_wait_where_others_are_refused(world: World) -> None:
    world.configure(max_queue=2, parallel=1)
    gate = world.gate()
    world.store.add("embedder", kind="embed", ready_when=str(gate))
    requests = [asyncio.create_task(world.lease("embedder", "embed")) for _ in range(200)]
    await until(lambda: world.waiting("embedder") == 200)
    with pytest.raises(TooManyRequests):
        await world.lease("embedder")
    gate.touch()
    assert len(await asyncio.gather(*requests)) == 200
