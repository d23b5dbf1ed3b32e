"""From a plan to a worker that is ready to be started: its command, its socket and its log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from llmserve.engines import llama_cpp
from llmserve.engines.command import Command
from llmserve.errors import Unavailable
from llmserve.fleet.sockets import SocketDirectory
from llmserve.fleet.worker import Worker
from llmserve.fleet.worker_log import WorkerLog
from llmserve.settings import Settings, home_directory, runtime_directory
from llmserve.types import EnginePlan, InstalledModel

Launch: TypeAlias = Callable[[EnginePlan, InstalledModel, Path], Command]


class Launcher:
    """Makes workers; `close()` when none is left."""

    def __init__(self, settings: Settings, launch: Launch | None) -> None:
        self._launch = partial(_command, home_directory(settings) / "prefixes") if launch is None else launch
        self._logs = home_directory(settings) / "logs"
        self._sockets = SocketDirectory(runtime_directory() / "workers")

    async def worker(self, plan: EnginePlan, model: InstalledModel) -> Worker:
        """A worker that is not started yet.

        Raises `StartupFailed` if there is no place for its socket, `Unavailable` if its engine cannot be started.
        """
        socket = await asyncio.to_thread(self._sockets.new_path)
        return Worker(model.name, self._launch(plan, model, socket), socket, WorkerLog(self._logs, model.name))

    async def close(self) -> None:
        await asyncio.to_thread(self._sockets.close)


def _command(prefixes: Path, plan: EnginePlan, model: InstalledModel, socket: Path) -> Command:
    if plan.engine == "llama.cpp":
        return llama_cpp.command(plan, model, socket, prefixes=prefixes)
    raise Unavailable(f"`{model.name}` would need a worker of {plan.engine}, which this version cannot start")
