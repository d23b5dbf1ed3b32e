"""A gateway that is killed leaves no worker, and what it leaves on disk goes when the next one starts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from llmserve.fleet.sockets import SocketDirectory
from tests.fleet.fakes import alive, until

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
