"""A gateway that is killed leaves no worker, and what it leaves on disk goes when the next one starts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from llmserve.fleet.orphans import end_orphans, note, note_beside, started
from llmserve.fleet.sockets import SocketDirectory
from tests.fleet.fakes import alive, until
from tests.support import runs
from tests.support import until as wait_until

PARENT = """
import asyncio, sys
from pathlib import Path
import llmserve.fleet.launcher as launcher
from tests.fleet.fakes import World

async def main():
    folder, runtime = map(Path, sys.argv[1:])
    launcher.runtime_directory = lambda: runtime
    world = World(folder)
    world.store.add("alpha")
    world.store.add("beta", ready_when=str(folder / "never"))
    ready = await world.load("alpha")
    loading = asyncio.create_task(world.lease("beta"))
    while world.pid("beta") is None:
        await asyncio.sleep(0.01)
    print(ready, world.pid("beta"), flush=True)
    await loading

asyncio.run(main())
"""


async def test_workers_ready_and_loading_end_with_their_gateway(tmp_path: Path, runtime_directory: Path) -> None:
    root = Path(__file__).parent.parent.parent
    argv = (sys.executable, "-c", PARENT, str(tmp_path), str(runtime_directory))
    parent = await asyncio.create_subprocess_exec(*argv, cwd=root, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    workers = [int(word) for word in (await parent.stdout.readline()).split()]
    assert [alive(worker) for worker in workers] == [True, True]
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()
    await until(lambda: not any(alive(worker) for worker in workers), seconds=2)

    left = list((runtime_directory / "workers").iterdir())
    assert len(left) == 1
    next_gateway = SocketDirectory(runtime_directory / "workers")
    next_gateway.new_path()
    assert not left[0].exists()
    next_gateway.close()


async def test_a_worker_that_hangs_is_ended_by_the_next_gateway(tmp_path: Path, runtime_directory: Path) -> None:
    root = Path(__file__).parent.parent.parent
    argv = (sys.executable, "-c", PARENT, str(tmp_path), str(runtime_directory))
    parent = await asyncio.create_subprocess_exec(*argv, cwd=root, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    workers = [int(word) for word in (await parent.stdout.readline()).split()]
    os.kill(workers[0], signal.SIGSTOP)  # deaf to the end of its pipe, and to SIGTERM
    # Of two signals that wait, SIGTERM would be taken first.
    await until(lambda: psutil.Process(workers[0]).status() == psutil.STATUS_STOPPED)
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()
    await until(lambda: not alive(workers[1]))
    assert alive(workers[0])
    next_gateway = SocketDirectory(runtime_directory / "workers")
    next_gateway.new_path()
    await until(lambda: not alive(workers[0]))
    next_gateway.close()


@pytest.mark.parametrize("difference", ["none", "socket", "start"])
def test_only_the_very_process_is_ended(tmp_path: Path, difference: str) -> None:
    socket = tmp_path / "1.sock"
    argument = tmp_path / "2.sock" if difference == "socket" else socket
    argv = [sys.executable, "-c", "print(flush=True); input()", str(argument)]
    other = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()  # Just after its start a process has no arguments that others see.
    note(socket, other.pid)
    if difference == "start":
        note_beside(socket).write_text(f"{other.pid} {started(os.getppid())}")
    end_orphans(tmp_path)
    if difference != "none":
        other.communicate(b"\n")
    assert other.wait(20) == (-signal.SIGKILL if difference == "none" else 0)
    other.stdout.close()
    if other.stdin is not None:
        other.stdin.close()


# Leads a group, starts a process in it and tells its number; the rest stays when this one is killed.
LEADER = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import os; print(os.getpid(), flush=True); os.read(0, 1)"])
os.read(0, 1)
"""


@pytest.mark.parametrize("known", [True, False])
def test_what_a_worker_left_of_its_group_is_ended(tmp_path: Path, known: bool) -> None:
    socket = tmp_path / "1.sock"
    environment = {"SOCKETS": str(tmp_path) if known else f"{tmp_path}-elsewhere"}
    lifeline, held = os.pipe()
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER], stdin=lifeline, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )
    assert leader.stdout is not None
    left = psutil.Process(int(leader.stdout.readline()))
    note(socket, leader.pid)
    leader.kill()
    leader.wait()
    end_orphans(tmp_path)
    if known:
        wait_until(lambda: not runs(left))
    else:
        assert runs(left)
    for descriptor in (held, lifeline):
        os.close(descriptor)
    wait_until(lambda: not runs(left))
    leader.stdout.close()


@pytest.mark.parametrize("text", ["", "x y", "1", "99999999 0.0", "0 0.0", "-1 0.0", "1 0.0 3"])
def test_a_note_that_says_nothing_ends_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "1.pid").write_text(text)
    end_orphans(tmp_path)
    assert alive(os.getpid())
