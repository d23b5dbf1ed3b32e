"""Leases: who gets one, who waits, who is refused."""

from __future__ import annotations

import asyncio
import os

import psutil
import pytest

from llmserve.errors import AdapterNotFound, Conflict, ModelNotFound, TooManyRequests, Unavailable
from llmserve.fleet.lease import Lease
from tests.fleet.fakes import World, ask, children, until


async def test_a_lease_reaches_the_worker_of_the_model(world: World) -> None:
    lease = await world.lease("alpha")
    assert await ask(lease, tokens=["one ", "two"]) == "one two"
    assert lease.model.name == "alpha"
    assert lease.plan == world.fleet.status()[0].plan
    assert not lease.died.is_set()
    lease.release()


async def test_an_alias_and_the_name_share_one_worker(world: World) -> None:
    by_name, by_alias = await world.lease("alpha"), await world.lease("alpha-alias")
    assert by_name.client is by_alias.client
    assert len(children()) == 1


async def test_a_model_and_its_adapters_share_one_worker(world: World) -> None:
    world.store.add("alpha", adapters=("polite", "terse"))
    names = ("alpha@polite", "alpha", "alpha-alias@terse", "alpha@none")
    leases = await asyncio.gather(*map(world.lease, names))
    assert {lease.model.name for lease in leases} == {"alpha"}
    assert len({id(lease.client) for lease in leases}) == 1
    assert len(children()) == 1
    assert world.status("alpha").leases == 4
    for lease in leases:
        lease.release()
    assert await world.fleet.stop("alpha@polite")
    assert not children()


async def test_an_unknown_adapter_is_not_found_whether_the_model_is_loaded_or_not(world: World) -> None:
    world.store.add("alpha", adapters=("polite",))
    world.store.add("beta")
    for _ in range(2):
        with pytest.raises(AdapterNotFound, match="`alpha` has no adapter `rude`") as missing:
            await world.lease("alpha@rude")
        assert missing.value.hint == "there is `alpha@polite`"
        (await world.lease("alpha")).release()
    with pytest.raises(AdapterNotFound, match="`beta` has no adapter `polite`"):
        await world.lease("beta@polite")
    assert len(children()) == 1, "nothing is loaded for what is not there"


async def test_many_requests_join_one_load(world: World) -> None:
    gate = world.gate()
    world.store.add("alpha", ready_when=str(gate), progress=0.4)
    requests = [asyncio.create_task(world.lease("alpha")) for _ in range(20)]
    await until(lambda: world.waiting("alpha") == 20 and world.status("alpha").progress == 0.4)
    status = world.status("alpha")
    assert (status.state, status.waiting, status.leases) == ("loading", 20, 0)
    gate.touch()
    leases = await asyncio.gather(*requests)
    assert len({id(lease.client) for lease in leases}) == 1
    assert len(children()) == 1
    status = world.status("alpha")
    assert (status.state, status.waiting, status.leases, status.progress) == ("ready", 0, 20, None)


async def test_a_request_that_gives_up_leaves_the_queue_and_not_the_load(world: World) -> None:
    gate = world.gate()
    world.store.add("alpha", ready_when=str(gate))
    request = asyncio.create_task(world.lease("alpha"))
    await until(lambda: world.waiting("alpha") == 1)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    status = world.status("alpha")
    assert (status.state, status.waiting) == ("loading", 0)
    gate.touch()
    await until(lambda: world.state("alpha") == "ready")


async def test_a_request_cancelled_just_after_it_was_granted_gives_the_lease_back(world: World) -> None:
    gate = world.gate()
    world.store.add("alpha", ready_when=str(gate))

    async def lease_and_cancel_the_other() -> Lease:
        lease = await world.lease("alpha")
        second.cancel()  # both answers were decided in one step, and the other request has not run since
        return lease

    first = asyncio.create_task(lease_and_cancel_the_other())
    second = asyncio.create_task(world.lease("alpha"))
    await until(lambda: world.waiting("alpha") == 2)
    gate.touch()
    lease = await first
    with pytest.raises(asyncio.CancelledError):
        await second
    status = world.status("alpha")
    assert status.leases == 1
    assert await ask(lease, tokens=["mine"]) == "mine"


async def test_releasing_twice_is_releasing_once(world: World) -> None:
    first, second = await world.lease("alpha"), await world.lease("alpha")
    first.release()
    first.release()
    status = world.status("alpha")
    assert status.leases == 1
    assert status.idle_seconds is None
    second.release()
    world.clock.advance(7)
    status = world.status("alpha")
    assert (status.leases, status.idle_seconds, status.unload_in_seconds) == (0, 7, 293)


async def test_an_unknown_model_is_refused(world: World) -> None:
    with pytest.raises(ModelNotFound):
        await world.lease("omega")
    assert world.fleet.status() == ()


async def test_a_full_queue_refuses_while_loading(world: World) -> None:
    gate = world.gate()
    world.store.add("alpha", ready_when=str(gate))
    world.configure(parallel=2, max_queue=3)
    requests = [asyncio.create_task(world.lease("alpha")) for _ in range(5)]
    await until(lambda: world.waiting("alpha") == 5)
    with pytest.raises(TooManyRequests) as refused:
        await world.lease("alpha")
    assert refused.value.retry_after is not None
    gate.touch()
    for request in requests:
        (await request).release()


async def test_a_worker_gets_what_it_computes_and_a_little_more(world: World) -> None:
    world.configure(parallel=4, max_queue=9)
    leases = [await world.lease("alpha") for _ in range(5)]
    waiting = [asyncio.create_task(world.lease("alpha")) for _ in range(2)]
    await until(lambda: world.waiting("alpha") == 2)
    assert world.status("alpha").leases == 5
    leases[0].release()
    await until(lambda: world.waiting("alpha") == 1)
    leases.append(await waiting[0])
    leases[1].release()
    leases.append(await waiting[1])
    assert world.status("alpha").leases == 5


async def test_a_full_queue_refuses_when_ready_and_accepts_after_a_release(world: World) -> None:
    world.configure(parallel=1, max_queue=1)
    leases = [await world.lease("alpha") for _ in range(2)]
    with pytest.raises(TooManyRequests):
        await world.lease("alpha")
    leases.pop().release()
    leases.append(await world.lease("alpha"))
    with pytest.raises(TooManyRequests):
        await world.lease("alpha")


async def test_the_queue_of_one_model_is_not_that_of_another(world: World) -> None:
    world.store.add("beta")
    world.configure(parallel=1, max_queue=0)
    await world.lease("alpha")
    assert (await world.lease("beta")).model.name == "beta"


async def test_stop_unloads_an_idle_model(world: World) -> None:
    pid = await world.load("alpha")
    assert await world.fleet.stop("alpha") is True
    assert not psutil.pid_exists(pid)
    assert world.fleet.status() == ()
    assert await world.fleet.stop("alpha") is False
    assert world.fleet.turnover.unloads == {("alpha", "asked"): 1}


async def test_stop_by_alias_and_of_a_model_that_left_the_store(world: World) -> None:
    await world.load("alpha")
    assert await world.fleet.stop("alpha-alias") is True
    await world.load("alpha")
    world.store.remove("alpha")
    assert await world.fleet.stop("alpha") is True
    with pytest.raises(ModelNotFound):
        await world.fleet.stop("omega")


async def test_stop_refuses_a_model_in_use(world: World) -> None:
    lease = await world.lease("alpha")
    with pytest.raises(Conflict):
        await world.fleet.stop("alpha")
    assert await ask(lease, tokens=["still here"]) == "still here"
    lease.release()
    assert await world.fleet.stop("alpha") is True


async def test_stop_ends_a_load_that_nobody_waits_for_and_refuses_otherwise(world: World) -> None:
    world.store.add("alpha", ready_when=str(world.gate()))
    request = asyncio.create_task(world.lease("alpha"))
    await until(lambda: len(children()) == 1)
    with pytest.raises(Conflict):
        await world.fleet.stop("alpha")
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert await world.fleet.stop("alpha") is True
    assert children() == []
    assert world.fleet.status() == ()


async def test_a_request_that_comes_while_a_model_stops_gets_the_next_worker(world: World) -> None:
    old = await world.load("alpha")
    stopping = asyncio.create_task(world.fleet.stop("alpha"))
    await until(lambda: world.state("alpha") == "stopping")
    new = await world.load("alpha")
    assert await stopping is True
    assert new != old
    status = world.status("alpha")
    assert status.restarts == 0


async def test_an_idle_model_is_unloaded_when_its_time_is_over(world: World) -> None:
    world.configure(keep_alive=60.0)
    await world.load("alpha")
    world.clock.advance(59)
    assert world.fleet.sweep() == 1
    assert world.state("alpha") == "ready"
    world.clock.advance(1)
    assert world.fleet.sweep() is None
    await until(lambda: world.fleet.status() == ())
    assert children() == []
    assert world.fleet.turnover.unloads == {("alpha", "idle"): 1}


async def test_a_model_in_use_is_never_idle(world: World) -> None:
    world.configure(keep_alive=60.0)
    lease = await world.lease("alpha")
    world.clock.advance(1000)
    assert world.fleet.sweep() is None
    assert world.state("alpha") == "ready"
    lease.release()
    assert world.fleet.sweep() == 60


async def test_a_negative_keep_alive_is_for_ever(world: World) -> None:
    world.configure(keep_alive=-1.0)
    await world.load("alpha")
    world.clock.advance(1e9)
    assert world.fleet.sweep() is None
    status = world.status("alpha")
    assert (status.state, status.unload_in_seconds) == ("ready", None)


async def test_keep_alive_zero_unloads_at_once_without_being_told(world: World) -> None:
    world.configure(keep_alive=0.0)
    first, second = await world.lease("alpha"), await world.lease("alpha")
    first.release()
    assert await ask(second, tokens=["on"]) == "on"
    second.release()
    await until(lambda: world.fleet.status() == () and children() == [])


async def test_workers_keep_the_gateway_s_environment_to_themselves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    pid = await world.load("alpha")
    assert "SOME_API_KEY" not in psutil.Process(pid).environ()
    assert os.getpgid(pid) == pid
    assert psutil.Process(pid).cwd() == "/"


async def test_close_waits_for_the_running_requests_and_refuses_the_rest(world: World) -> None:
    gate = world.gate()
    world.store.add("beta", ready_when=str(world.gate("never")))
    lease = await world.lease("alpha")
    waiting = asyncio.create_task(world.lease("beta"))
    await until(lambda: world.pid("beta") is not None)
    answer = asyncio.create_task(ask(lease, tokens=["a", "b"], gate=str(gate), gate_at=1))
    closing = asyncio.create_task(world.fleet.close(60))
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await world.lease("alpha")
    assert not closing.done()
    gate.touch()
    assert await answer == "ab"
    lease.release()
    await closing
    assert children() == []


async def test_a_second_close_ends_the_drain(world: World) -> None:
    lease = await world.lease("alpha")
    draining = asyncio.create_task(world.fleet.close(600))
    await until(lambda: bool(world.fleet.status()) and not lease.died.is_set())
    await world.fleet.close(0)
    assert lease.died.is_set()
    assert "shut down" in lease.reason().message
    lease.release()
    await draining


async def test_close_may_be_called_before_anything_was_loaded(world: World) -> None:
    await world.fleet.close()
    await world.fleet.close()
    assert world.fleet.status() == ()
