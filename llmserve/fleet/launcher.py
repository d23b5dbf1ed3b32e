"""From a plan to a worker that is ready to be started: its command, its socket and its log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

from llmserve.engines import llama_cpp, vllm, vllm_launch
from llmserve.engines.command import Command
from llmserve.errors import Unavailable
from llmserve.fleet.sockets import SocketDirectory
from llmserve.fleet.vllm_worker import VllmWorker
from llmserve.fleet.worker import Worker
from llmserve.fleet.worker_log import WorkerLog
from llmserve.settings import Settings, home_directory, runtime_directory
from llmserve.types import EnginePlan, InstalledModel

Launch: TypeAlias = Callable[[EnginePlan, InstalledModel, Path], Command]


class WorkerSource(Protocol):
    """What a fleet needs of a launcher."""

    async def worker(self, plan: EnginePlan, model: InstalledModel) -> Worker: ...

    async def close(self) -> None: ...


class Launcher:
    """Makes workers; `close()` when none is left."""

    def __init__(self, settings: Settings, launch: Launch | None = None) -> None:
        """`launch` says how a worker is started: as its engine needs it, unless another way is given."""
        self._launch = partial(_command, settings) if launch is None else launch
        self._logs = home_directory(settings) / "logs"
        self._sockets = SocketDirectory(runtime_directory() / "workers")

    async def worker(self, plan: EnginePlan, model: InstalledModel) -> Worker:
        """A worker that is not started yet.

        Raises `StartupFailed` if there is no place for its socket, `Unavailable` if its engine cannot be started.
        """
        socket = await asyncio.to_thread(self._sockets.new_path)
        command = await asyncio.to_thread(self._launch, plan, model, socket)
        log = WorkerLog(self._logs, model.name)
        if plan.engine == "vllm":
            return VllmWorker(model.name, command, socket, log, plan)
        return Worker(model.name, command, socket, log)

    async def close(self) -> None:
        await asyncio.to_thread(self._sockets.close)


def _command(settings: Settings, plan: EnginePlan, model: InstalledModel, socket: Path) -> Command:
    home = home_directory(settings)
    if plan.engine == "llama.cpp":
        return llama_cpp.command(plan, model, socket, home=home, prefixes=home / "prefixes")
    installation = vllm.installed(home, settings.vllm_python)
    if installation is None:
        raise Unavailable(
            f"`{model.name}` needs vLLM, which is not installed any more", hint="`llmserve engines install vllm`"
        )
    return vllm_launch.command(plan, model, socket, installation, home=home)
