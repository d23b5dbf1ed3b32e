"""A worker that is a vLLM server: its protocol, its start, its hang and its end, with a process that plays vLLM."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmserve.engines.command import Command
from llmserve.errors import WorkerDied
from llmserve.fleet import vllm_worker
from llmserve.fleet.connection import WorkerConnection
from llmserve.fleet.vllm_worker import VllmWorker
from llmserve.fleet.worker_log import WorkerLog
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from tests import fake_vllm
from tests.engines.vllm_table import MODELS
from tests.planning.machines import machine, with_engines

Start = Callable[[str], VllmWorker]
TIMEOUT_SECONDS = 30.0


@pytest.fixture
def make(tmp_path: Path) -> Start:
    hardware = with_engines(machine("xeon_amx"), llama=["cpu"], vllm=["cpu"])
    decided = plan(hardware, MODELS["0.5B bf16"], Settings())

    def made(mode: str) -> VllmWorker:
        socket = tmp_path / "1.sock"
        command = Command((sys.executable, fake_vllm.__file__, str(socket), mode), {})
        return VllmWorker("a-model:1b", command, socket, WorkerLog(tmp_path / "logs", "a-model:1b"), decided)

    return made


@asynccontextmanager
async def running(worker: VllmWorker) -> AsyncIterator[VllmWorker]:
    await worker.start()
    try:
        await worker.ready(TIMEOUT_SECONDS)
        yield worker
    finally:
        await worker.stop(0)
        await worker.client.aclose()


async def ask(worker: VllmWorker, path: str = "/v1/chat/completions", **fields: Any) -> WorkerConnection:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    headers = (
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"X-Request-Id", b"req-1"),
    )
    connection = await worker.connect(TIMEOUT_SECONDS)
    connection.send("POST", path.encode(), headers, body)
    await connection.response(TIMEOUT_SECONDS)
    return connection


async def read(connection: WorkerConnection) -> bytes:
    parts = [connection.take()]
    while not connection.complete:
        await connection.more(TIMEOUT_SECONDS)
        parts.append(connection.take())
    connection.abort()
    return b"".join(parts)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells")
async def test_what_it_holds_is_told(make: Start) -> None:
    async with running(make("serves")) as worker:
        assert 2**20 < (worker.resident_bytes() or 0) < 2**30


async def test_a_whole_answer(make: Start) -> None:
    async with running(make("serves")) as worker:
        connection = await ask(worker, max_tokens=5)
        answer = json.loads(await read(connection))
        assert (connection.status, connection.header(b"content-type")) == (200, b"application/json")
        assert (answer["id"], answer["model"]) == ("req-1", "a-model:1b")
        # The fake repeats what it was sent.
        sent = json.loads(answer["choices"][0]["message"]["content"])
        assert sent == {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "model": "a-model:1b"}


async def test_a_stream(make: Start) -> None:
    async with running(make("serves")) as worker:
        connection = await ask(worker, stream=True)
        assert connection.header(b"content-type").startswith(b"text/event-stream")
        lines = [line for line in (await read(connection)).decode().splitlines() if line]
        assert lines[-1] == "data: [DONE]"
        events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert [event["choices"][0]["delta"].get("content") for event in events] == ["", "1", "2"]
        assert {event["id"] for event in events} == {"req-1"}


async def test_an_error(make: Start) -> None:
    async with running(make("serves")) as worker:
        connection = await ask(worker, max_tokens=7)
        error = json.loads(await read(connection))["error"]
        assert connection.status == 400
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


async def test_what_vllm_cannot_do_is_answered_without_it(make: Start) -> None:
    async with running(make("serves")) as worker:
        connection = await ask(worker, mirostat=2, stream=True)
        assert connection.status == 400
        assert json.loads(await read(connection))["error"]["param"] == "mirostat"


async def test_while_it_starts_it_says_what_it_does(make: Start) -> None:
    worker = make("serves")
    seen: set[str] = set()

    async def watch() -> None:
        while True:
            if worker.phase is not None:
                seen.add(worker.phase.partition(",")[0])
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    async with running(worker):
        assert (worker.phase, worker.progress) == (None, None)
    watching.cancel()
    assert seen <= {"starting", "loading weights"}


async def test_why_it_could_not_start_is_told_with_what_helps(make: Start) -> None:
    worker = make("no memory")
    await worker.start()
    with pytest.raises(WorkerDied) as caught:
        await worker.ready(TIMEOUT_SECONDS)
    assert caught.value.message == (
        "`a-model:1b` could not be loaded: the GPU's memory ran out: 2.00 GiB more were needed, "
        "and 1.00 GiB of 23.64 GiB were free"
    )
    assert "`context`" in (caught.value.hint or "")
    await worker.client.aclose()


async def test_a_server_that_hangs_is_ended(make: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_worker, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr("llmserve.vllm.progress_watch.IDLE_SECONDS", 0.1)
    async with running(make("hangs")) as worker:
        connection = await ask(worker, stream=True)
        with pytest.raises(httpx2.RemoteProtocolError):
            await read(connection)
        await worker.died.wait()
        assert "did nothing for" in worker.reason().message


async def test_a_server_without_requests_may_do_nothing(make: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_worker, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr("llmserve.vllm.progress_watch.IDLE_SECONDS", 0.02)
    async with running(make("serves")) as worker:
        for _ in range(5):
            await read(await ask(worker))
        assert not worker.died.is_set()


async def test_its_tokens_are_counted_as_another_workers_are(make: Start) -> None:
    async with running(make("serves")) as worker:
        assert await worker.counters() == {"prompt_tokens": 0, "generated_tokens": 0}
        await read(await ask(worker, stream=True))
        assert await worker.counters() == {"prompt_tokens": 0, "generated_tokens": 3}
        await worker.stop(0)
        assert await worker.counters() is None
