"""One worker process by itself."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from llmserve.engines.command import Command
from llmserve.errors import WorkerDied
from llmserve.fleet.worker import OOM_SCORE_ADJUSTMENT, Worker
from llmserve.fleet.worker_log import WorkerLog
from tests.fake_worker import fake_command
from tests.fleet.fakes import FakeStore, children, descriptors, fake_plan, until


class Bench:
    """Makes workers of one model and stops them at the end."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.store = FakeStore(folder)
        self.socket = sockets / "1.sock"
        self.log = WorkerLog(folder / "logs", "alpha")
        self.worker: Worker | None = None

    def make(self, command: Command | None = None, **script: object) -> Worker:
        self.store.add("alpha", **script)
        command = command or fake_command(fake_plan(), self.store.find("alpha"), self.socket)
        self.worker = Worker("alpha", command, self.socket, self.log)
        return self.worker


@pytest.fixture
async def bench(tmp_path: Path, runtime_directory: Path) -> AsyncIterator[Bench]:
    before = descriptors()
    bench = Bench(tmp_path, runtime_directory)
    yield bench
    if bench.worker is not None:
        await bench.worker.stop(0)
        await bench.worker.client.aclose()
    assert children() == []
    await until(lambda: descriptors() <= before)


async def test_a_worker_from_start_to_stop(bench: Bench) -> None:
    worker = bench.make()
    assert worker.pid is None
    await worker.start()
    await worker.ready(20)
    assert worker.pid is not None
    assert (await worker.client.get("/health")).status_code == 200
    assert bench.socket.is_socket()
    await worker.stop()
    assert worker.died.is_set()
    assert worker.exit_code is not None
    assert not bench.socket.exists()
    assert worker.reason().message == "the worker of `alpha` was stopped"


async def test_stopping_twice_and_at_once_is_stopping(bench: Bench) -> None:
    worker = bench.make()
    await worker.stop()  # not started: nothing to do
    await worker.start()
    await worker.ready(20)
    await asyncio.gather(worker.stop(because="was stopped first"), worker.stop())
    await worker.stop()
    assert worker.reason().message == "the worker of `alpha` was stopped first"


async def test_a_worker_that_does_not_heed_sigterm_is_killed(bench: Bench) -> None:
    worker = bench.make(ignore_sigterm=True)
    await worker.start()
    await worker.ready(20)
    await worker.stop(0.05)
    assert worker.exit_code == -9
    assert not worker.killed  # by us, which says nothing about memory


async def test_its_standard_input_is_the_lifeline(bench: Bench) -> None:
    worker = bench.make(ignore_sigterm=True)
    await worker.start()
    await worker.ready(20)
    assert worker._process is not None
    assert worker._process.stdin is not None
    worker._process.stdin.close()
    async with asyncio.timeout(5):
        await worker.died.wait()
    assert worker.exit_code == 0


async def test_progress_is_what_health_reports(bench: Bench, tmp_path: Path) -> None:
    worker = bench.make(ready_when=str(tmp_path / "gate"), progress=0.25)
    await worker.start()
    ready = asyncio.create_task(worker.ready(20))
    await until(lambda: worker.progress == 0.25)
    (tmp_path / "gate").touch()
    await ready
    assert worker.progress is None


@pytest.mark.parametrize("progress", [-1, 2, "half", None, {"a": 1}])
async def test_progress_that_is_none_is_not_believed(bench: Bench, tmp_path: Path, progress: object) -> None:
    worker = bench.make(ready_when=str(tmp_path / "gate"), progress=progress)
    await worker.start()
    ready = asyncio.create_task(worker.ready(20))
    await until(bench.socket.exists)
    (tmp_path / "gate").touch()
    await ready
    assert worker.progress is None


async def test_what_it_says_goes_to_a_private_log(bench: Bench) -> None:
    worker = bench.make(stderr="line one\nline two", exit=4)
    await worker.start()
    with pytest.raises(WorkerDied, match="ended with exit code 4 while loading"):
        await worker.ready(20)
    assert bench.log.tail() == "line one\nline two"
    assert bench.log.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's choice of victims is Linux's")
async def test_it_is_offered_to_the_kernel_before_the_gateway(bench: Bench) -> None:
    worker = bench.make()
    await worker.start()
    adjustment = Path(f"/proc/{worker.pid}/oom_score_adj").read_text()  # noqa: ASYNC240
    assert int(adjustment) == OOM_SCORE_ADJUSTMENT


async def test_it_leads_its_own_group_and_inherits_no_descriptor(bench: Bench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch()
    with secret.open() as kept:
        os.set_inheritable(kept.fileno(), True)
        worker = bench.make()
        await worker.start()
        await worker.ready(20)
        process = psutil.Process(worker.pid)
        assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
        assert str(secret) not in [file.path for file in process.open_files()]


@pytest.mark.parametrize("argv", [("/nowhere/python",), ("/etc/hostname",), ("/",)])
async def test_a_command_that_cannot_be_run(bench: Bench, argv: tuple[str, ...]) -> None:
    worker = bench.make(Command(argv, {}))
    with pytest.raises(WorkerDied, match="could not be started: ") as caught:
        await worker.start()
    assert argv[0] not in caught.value.message
    assert worker.pid is None
