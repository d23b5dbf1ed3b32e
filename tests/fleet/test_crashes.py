"""Workers that die, hang or talk nonsense: what their requests are told, and what comes after."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from typing import Any

import httpx2
import psutil
import pytest

from llmserve.errors import InsufficientStorage, Unavailable, WorkerDied
from tests.fleet.fakes import GIB, World, alive, ask, children, until


async def kill_while_loading(world: World, name: str, request: asyncio.Task[Any]) -> None:
    """Kill every worker that is started for `request`: a kill means that memory ran out, so smaller ones come."""
    while not request.done():
        if (pid := world.pid(name)) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.005)


async def test_an_idle_worker_that_is_killed_is_replaced_by_the_next_request(world: World) -> None:
    old = await world.load("alpha")
    os.kill(old, signal.SIGKILL)
    await until(lambda: world.fleet.status() == ())
    lease = await world.lease("alpha")
    assert await ask(lease, tokens=["again"]) == "again"
    status = world.status("alpha")
    assert status.pid != old
    assert status.restarts == 1
    assert status.last_error == "the worker of `alpha` was killed by SIGKILL"


async def test_a_worker_killed_mid_stream_tells_each_of_its_leases(world: World) -> None:
    leases = [await world.lease("alpha") for _ in range(3)]
    script = json.dumps({"tokens": 3, "hang_at": 1})
    body = {"model": "x", "prompt": script, "stream": True}
    async with leases[0].client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        status = world.status("alpha")
        os.kill(status.pid or 0, signal.SIGKILL)
        with pytest.raises(httpx2.TransportError):
            async for _ in lines:
                pass
    async with asyncio.timeout(5):
        for lease in leases:
            await lease.died.wait()
    assert {str(lease.reason()) for lease in leases} == {"the worker of `alpha` was killed by SIGKILL"}


async def test_old_leases_do_not_touch_the_new_worker(world: World) -> None:
    old = await world.lease("alpha")
    with pytest.raises(httpx2.TransportError):
        await ask(old, die_at=0)
    await old.died.wait()
    new = await world.lease("alpha")
    status = world.status("alpha")
    assert status.leases == 1
    old.release()
    status = world.status("alpha")
    assert status.leases == 1
    assert await ask(new, tokens=["mine"]) == "mine"
    assert not new.died.is_set()


@pytest.mark.parametrize("name", ["SEGV", "ABRT"])
async def test_the_signal_that_ended_a_worker_is_named(world: World, name: str) -> None:
    lease = await world.lease("alpha")
    with pytest.raises(httpx2.TransportError):
        await ask(lease, die_at=0, signal=name)
    await lease.died.wait()
    assert lease.reason().message == f"the worker of `alpha` was killed by SIG{name}"


async def test_a_reason_is_there_before_the_end_is_known(world: World) -> None:
    lease = await world.lease("alpha")
    assert not lease.died.is_set()
    assert lease.reason().message == "the worker of `alpha` closed the connection"


async def test_everyone_who_waits_is_told_when_a_worker_is_killed_while_loading(world: World) -> None:
    world.store.add("alpha", ready_when=str(world.gate()))
    requests = [asyncio.create_task(world.lease("alpha")) for _ in range(3)]
    await kill_while_loading(world, "alpha", requests[0])
    errors = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(error) for error in errors] == [WorkerDied] * 3
    assert len({id(error) for error in errors}) == 3
    assert str(errors[0]) == "the worker of `alpha` was killed by SIGKILL while loading"
    assert world.fleet.status() == ()


async def test_a_worker_that_exits_while_loading_leaves_its_words_for_ps_and_not_for_clients(world: World) -> None:
    said = "error: /home/somebody/models/alpha.gguf: unknown architecture"
    world.store.add("alpha", stderr=said, exit=3)
    with pytest.raises(WorkerDied) as caught:
        await world.lease("alpha")
    assert caught.value.message == "the worker of `alpha` ended with exit code 3 while loading"
    assert "/home" not in json.dumps(caught.value.body())
    with pytest.raises(WorkerDied):
        await world.lease("alpha")
    status = world.status("alpha")
    assert (status.state, status.log_tail) == ("failed", said)


async def test_two_failed_loads_in_a_row_open_a_back_off_that_doubles(world: World) -> None:
    world.store.add("alpha", exit=3)
    for _ in range(2):
        with pytest.raises(WorkerDied):
            await world.lease("alpha")
    expected = 5.0
    for _ in range(2):
        world.clock.advance(expected - 1)
        with pytest.raises(Unavailable) as refused:
            await world.lease("alpha")
        assert refused.value.retry_after == 1
        assert "ended with exit code 3" in refused.value.message
        assert children() == []
        world.clock.advance(1)
        with pytest.raises(WorkerDied):
            await world.lease("alpha")
        expected *= 2
    status = world.status("alpha")
    assert (status.state, status.retry_in_seconds) == ("failed", 20)


async def test_a_load_that_succeeds_closes_the_back_off(world: World) -> None:
    world.store.add("alpha", exit=3)
    for _ in range(2):
        with pytest.raises(WorkerDied):
            await world.lease("alpha")
    world.store.add("alpha")
    world.clock.advance(5)
    await world.load("alpha")
    world.store.add("alpha", exit=3)
    assert await world.fleet.stop("alpha") is True
    with pytest.raises(WorkerDied):  # the first failure of a new row: tried at once, and again
        await world.lease("alpha")
    with pytest.raises(WorkerDied):
        await world.lease("alpha")


async def test_stop_forgets_a_back_off(world: World) -> None:
    world.store.add("alpha", exit=3)
    for _ in range(2):
        with pytest.raises(WorkerDied):
            await world.lease("alpha")
    world.store.add("alpha")
    assert await world.fleet.stop("alpha") is False
    assert await world.load("alpha") > 0


async def test_a_worker_that_is_not_ready_in_time_is_killed(world: World) -> None:
    world.store.add("alpha", ready_when=str(world.gate()))
    world.configure(load_timeout=1.0)
    with pytest.raises(WorkerDied, match="was not ready after 1 s"):
        await world.lease("alpha")
    assert children() == []


async def test_a_worker_that_does_not_answer_health_is_killed(world: World) -> None:
    world.store.add("alpha", hang=True)
    world.configure(load_timeout=1.0)
    with pytest.raises(WorkerDied, match="was not ready after 1 s"):
        await world.lease("alpha")
    assert children() == []


async def test_a_worker_that_talks_nonsense_while_loading_is_killed(world: World) -> None:
    world.store.add("alpha", garbage=True)
    with pytest.raises(WorkerDied, match="did not speak the worker protocol"):
        await world.lease("alpha")
    assert children() == []


async def test_a_worker_killed_while_loading_a_model_too_large_means_no_memory(world: World) -> None:
    world.machine.total = GIB
    world.store.add("alpha", size_bytes=8 * GIB, ready_when=str(world.gate()))
    request = asyncio.create_task(world.lease("alpha"))
    await kill_while_loading(world, "alpha", request)
    with pytest.raises(InsufficientStorage, match=r"by the estimate it needs .* where 1\.0 GiB are free"):
        await request


async def test_the_helpers_of_a_worker_go_with_it(world: World) -> None:
    written = world.gate("helper")
    world.store.add("alpha", helper=str(written))
    pid = await world.load("alpha")
    helper = int(written.read_text())
    assert psutil.Process(helper).ppid() == pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not alive(helper))


async def test_one_model_s_death_is_no_other_s(world: World) -> None:
    world.store.add("beta")
    alpha, beta = await world.lease("alpha"), await world.lease("beta")
    with pytest.raises(httpx2.TransportError):
        await ask(alpha, die_at=0)
    await alpha.died.wait()
    assert await ask(beta, tokens=["unharmed"]) == "unharmed"


async def test_a_mistake_of_ours_is_told_to_those_who_wait_and_does_not_block_the_model(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise ZeroDivisionError(name)

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "inspect", broken)
        with pytest.raises(ZeroDivisionError):
            await world.lease("alpha")
    assert await world.load("alpha") > 0


async def test_a_worker_that_cannot_be_started_is_a_failed_load(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fake_worker.sys.executable", "/nowhere/python")
    with pytest.raises(WorkerDied, match="could not be started: No such file or directory"):
        await world.lease("alpha")
