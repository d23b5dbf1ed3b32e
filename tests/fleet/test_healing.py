"""What a client sees when the worker of its request is lost: through the whole gateway, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmserve.api import listener
from llmserve.api.gateway import Gateway
from llmserve.api.limits import Limits
from llmserve.api.server import make_server
from llmserve.engines.command import Command
from llmserve.openai.sse import DONE, EventParser
from llmserve.settings import Settings
from llmserve.types import EnginePlan, HardwareInfo, InstalledModel, ModelInfo
from tests.fake_worker import fake_command
from tests.fleet.fakes import World, fake_plan, until

KILLS = int(os.environ.get("LLMSERVE_TEST_KILLS", "5"))
STREAMS = 64


@asynccontextmanager
async def gateway(world: World) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a gateway that serves on this event loop."""
    settings = Settings(port=0)
    with listener.bound(settings) as sock:
        server = make_server(Gateway(world.fleet, world.store, settings, Limits()))  # type: ignore[arg-type]
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        base = f"http://127.0.0.1:{sock.getsockname()[1]}"
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx2.AsyncClient(base_url=base, trust_env=False, timeout=60, limits=limits) as client:
            yield client
        server.should_exit = True
        await serving


def completion(stream: bool = False, **script: Any) -> dict[str, Any]:
    return {"model": "alpha", "prompt": json.dumps(script), "stream": stream}


async def ask(client: httpx2.AsyncClient, **request: Any) -> httpx2.Response:
    return await client.post("/v1/completions", json=completion(**request))


def text(answer: httpx2.Response) -> str:
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return str(answer.json()["choices"][0]["text"])
    events = [json.loads(data) for data in EventParser().feed(answer.content) if data != b"[DONE]"]
    return "".join(choice["text"] for event in events for choice in event.get("choices", ()))


async def running(world: World, number: int) -> None:
    """Wait until the worker of alpha has `number` requests."""
    await until(lambda: world.status("alpha").leases == number)
    lease = await world.fleet.lease("alpha")
    while (await lease.client.get("/stats")).json()["running"] < number:  # noqa: ASYNC110 (another process counts)
        await asyncio.sleep(0.005)
    lease.release()


async def written(world: World, number: int) -> None:
    """Wait until the worker of alpha has written `number` tokens."""
    lease = await world.fleet.lease("alpha")
    while (await lease.client.get("/stats")).json()["tokens"] < number:  # noqa: ASYNC110 (another process counts)
        await asyncio.sleep(0.005)
    lease.release()


def kill(world: World, number: signal.Signals = signal.SIGKILL) -> int:
    pid = world.pid("alpha") or 0
    os.kill(pid, number)
    return pid


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_has_got_nothing_yet_is_answered_by_the_next_worker(world: World, stream: bool) -> None:
    gate = world.gate()
    async with gateway(world) as client:
        asked = asyncio.create_task(ask(client, stream=stream, tokens=["all", " of it"], gate=str(gate)))
        await until(lambda: world.state("alpha") == "ready")
        await running(world, 1)
        old = kill(world)
        gate.touch()
        answer = await asked
        metrics = (await client.get("/metrics")).text
    assert (answer.status_code, text(answer)) == (200, "all of it")
    assert world.status("alpha").pid != old if world.loaded() else True
    assert 'llmserve_retries_total{model="alpha"} 1.0' in metrics


async def test_a_started_stream_is_told_and_not_begun_again(world: World) -> None:
    async with (
        gateway(world) as client,
        client.stream("POST", "/v1/completions", json=completion(stream=True, tokens=3, hang_at=1)) as answer,
    ):
        received = b""
        async for piece in answer.aiter_raw():
            if not received:
                kill(world)
            received += piece
    events = [json.loads(data) for data in EventParser().feed(received)]
    assert [event["error"]["code"] for event in events if "error" in event] == ["worker_died"]
    assert "SIGKILL" in events[-1]["error"]["message"]
    assert DONE not in received


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_kills_workers_gets_two_of_them(world: World, stream: bool) -> None:
    pids: list[int] = []
    async with gateway(world) as client:
        for _ in range(2):
            answer = await ask(client, stream=stream, die_at=0, tokens=1)
            assert (answer.status_code, answer.json()["error"]["code"]) in {(502, "worker_died"), (503, "unavailable")}
            pids.append(world.status("alpha").restarts if world.loaded() else -1)
        refused = await ask(client, tokens=["hello"])
    # The third crash in a row opens the breaker.
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) == 5
    assert "killed by SIGKILL" in refused.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_worker_that_talks_nonsense_is_replaced(world: World, stream: bool) -> None:
    old = await world.load("alpha")
    async with gateway(world) as client:
        answer = await ask(client, stream=stream, garbage_at=0)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "worker_protocol_error")
        assert text(await ask(client, tokens=["sound"])) == "sound"
        status = world.status("alpha")
        assert status.pid != old
        assert status.last_error == "the worker of `alpha` did not keep to the protocol"


async def test_a_worker_that_stops_is_ended_and_its_requests_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmserve.fleet.watchdog.POLL_SECONDS", 0.1)
    monkeypatch.setattr("llmserve.fleet.watchdog.SILENCE_SECONDS", 0.5)
    async with gateway(world) as client:
        asked = asyncio.create_task(ask(client, hang_at=0))
        await until(lambda: world.state("alpha") == "ready")
        await running(world, 1)
        kill(world, signal.SIGSTOP)
        answer = await asked
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "has not answered for" in answer.json()["error"]["message"]
        assert text(await ask(client, tokens=["again"])) == "again"


async def test_the_next_best_way_is_taken_and_announced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(hardware: HardwareInfo, info: ModelInfo, settings: Settings, *_: object) -> EnginePlan:
        if settings.gpu_layers is None:
            return replace(fake_plan(), devices=("cuda:0",), gpu_layers=4)
        return fake_plan()

    def launch(plan: EnginePlan, model: InstalledModel, socket: Path) -> Command:
        return Command(("false",), {}) if plan.gpu_layers else fake_command(plan, model, socket)

    monkeypatch.setattr("llmserve.fleet.loading.make_plan", plan)
    world.launch = launch
    said = "llmserve: llama.cpp on cpu instead of llama.cpp on cuda:0: the worker of `alpha` ended with exit code 1"
    async with gateway(world) as client:
        answer = await ask(client, tokens=["slowly"])
        assert text(answer) == "slowly"
        assert answer.headers["x-llmserve-fallback"] == f"{said.removeprefix('llmserve: ')} while loading"
        assert (await client.get("/admin/ps")).json()["models"][0]["fallback"].startswith("llama.cpp on cpu")
        # The way that failed is remembered: it is tried once more, and then not before its back-off is over.
        for attempts in (2, 2):
            assert await world.fleet.stop("alpha") is True
            assert (await ask(client, tokens=["x"], stream=True)).headers["x-llmserve-fallback"]
            record = world.fleet._registry.get("alpha")
            assert record is not None
            assert record.breakers["llama.cpp on cuda:0"].failures == attempts


async def test_kill_9_under_64_streams(world: World) -> None:
    """Every request ends, as an error or a whole answer, and service goes on. Prints how long both took at most."""
    world.configure(parallel=STREAMS, max_queue=STREAMS)
    ends: Counter[str] = Counter()
    ended_after, back_after = [0.0], [0.0]

    async def stream(client: httpx2.AsyncClient) -> None:
        answer = await ask(client, stream=True, tokens=40, delay=0.005)
        received = answer.content
        whole = received.endswith(DONE) and text(answer) == "".join(f"t{number} " for number in range(40))
        told = answer.status_code != 200 or (b'data: {"error"' in received and DONE not in received)
        assert whole != told
        ends["whole" if whole else "told"] += 1

    async with gateway(world) as client:
        for _ in range(KILLS):
            asked_at = time.monotonic()
            assert text(await ask(client, tokens=["up"])) == "up"
            back_after.append(time.monotonic() - asked_at)
            streams = [asyncio.create_task(stream(client)) for _ in range(STREAMS)]
            await written(world, 10 * STREAMS)
            kill(world)
            killed_at = time.monotonic()
            await asyncio.gather(*streams)
            ended_after.append(time.monotonic() - killed_at)
        assert text(await ask(client, tokens=["up"])) == "up"
        assert world.status("alpha").restarts == KILLS
    print(f"{KILLS} kills: {dict(ends)}; ended after {max(ended_after):.2f} s, back after {max(back_after):.2f} s")
    assert ends.total() == KILLS * STREAMS
    assert ends["told"] > 0
