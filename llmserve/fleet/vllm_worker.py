"""A worker that is a vLLM server: spoken to through translators, and watched, since it does not watch itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from llmserve.errors import DeadlineExceeded, WorkerDied
from llmserve.fleet.vllm_connection import Traffic, VllmConnection, connect
from llmserve.fleet.waiting import set_within
from llmserve.fleet.worker import HEALTH_POLL_SECONDS, HEALTH_TIMEOUT_SECONDS, Worker
from llmserve.fleet.worker_log import WorkerLog
from llmserve.hardware.surroundings import peak_family_bytes
from llmserve.types import EnginePlan
from llmserve.vllm.failures import Diagnosis, diagnose
from llmserve.vllm.metrics import counted_tokens, steps_taken
from llmserve.vllm.progress_watch import BUSY_CPU_SECONDS, BUSY_GPU_SECONDS, Observation, ProgressWatch
from llmserve.vllm.served_model import ServedModel
from llmserve.vllm.start_log import Measured, StartLog

if TYPE_CHECKING:
    from llmserve.engines.command import Command

LOG_POLL_SECONDS = 0.5
WATCH_SECONDS = 2.0
# Loading a large model over a slow disk and compiling it may take long; what matters is that something happens.
LONGEST_START_SECONDS = 3600.0
_TAIL_BYTES = 256 * 1024
_PARTS = "VLLM::"


class VllmWorker(Worker):
    """As its base class. `phase` is what it is doing while it starts, and `measured` what it then said of memory.

    It ends when one of its processes does, and when it has requests and takes no step.
    """

    def __init__(self, model: str, command: Command, socket: Path, log: WorkerLog, plan: EnginePlan) -> None:
        super().__init__(model, command, socket, log)
        options = plan.vllm
        self._served = ServedModel(
            model,
            plan.context,
            options.tool_parser if options else None,
            options.reasoning_parser if options else None,
        )
        self._traffic = Traffic()
        self._busy_seconds = BUSY_CPU_SECONDS if plan.devices == ("cpu",) else BUSY_GPU_SECONDS
        self._start_log = StartLog()
        self._read_bytes = 0
        self._phase_since = time.monotonic()
        self._diagnosis: Diagnosis | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._parts: list[int] = []

    @property
    def measured(self) -> Measured:
        return self._start_log.measured

    async def connect(self, timeout_seconds: float | None) -> VllmConnection:
        return await connect(self._socket, timeout_seconds, self._served, self._traffic)

    async def start(self) -> None:
        await super().start()
        self._tasks.append(asyncio.create_task(self._follow_log(), name=f"log of {self.model}"))

    async def ready(self, timeout_seconds: float) -> None:
        """As of any worker, but `timeout_seconds` is how long its log may stand still."""
        last_change, seen = time.monotonic(), 0
        try:
            async with asyncio.timeout(max(timeout_seconds, LONGEST_START_SECONDS)):
                while not await self._healthy():
                    await set_within(self.died, HEALTH_POLL_SECONDS)
                    if self._read_bytes != seen:
                        last_change, seen = time.monotonic(), self._read_bytes
                    if time.monotonic() - last_change > timeout_seconds:
                        raise TimeoutError
        except TimeoutError:
            self._end = f"was not ready, and did nothing for {timeout_seconds:g} s"
            raise self.reason() from None
        self._loaded = True
        self.progress = self.phase = None
        self._tasks.append(asyncio.create_task(self._watch_parts(), name=f"parts of {self.model}"))
        self._tasks.append(asyncio.create_task(self._watch_progress(), name=f"progress of {self.model}"))

    def reason(self) -> WorkerDied | DeadlineExceeded:
        """With the cause, where the log told one and nobody stopped it."""
        diagnosis = self._diagnosis
        if diagnosis is None or self._end is not None:
            return super().reason()
        text = f"`{self.model}` {'ended' if self._loaded else 'could not be loaded'}: {diagnosis.problem}"
        return WorkerDied(text, hint=diagnosis.hint)

    async def _ended(self) -> None:
        for task in self._tasks:
            task.cancel()
        for descriptor in self._parts:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._parts.clear()
        self._diagnosis = diagnose(await asyncio.to_thread(self._log_tail))

    # --- its log -----------------------------------------------------------------------------------------------------

    async def _follow_log(self) -> None:
        """Keep `phase` and `progress` true until it is ready, and read what it measured."""
        while True:
            piece = await asyncio.to_thread(self._new_lines)
            before = self._start_log.phase
            self._start_log.feed(piece)
            if self._loaded:
                return
            now = time.monotonic()
            if self._start_log.phase != before:
                self._phase_since = now
            self.phase = f"{self._start_log.phase}, {now - self._phase_since:.0f} s"
            self.progress = self._start_log.share
            await set_within(self.died, LOG_POLL_SECONDS)

    def _new_lines(self) -> bytes:
        with suppress(FileNotFoundError), self.log.path.open("rb") as file:
            file.seek(self._read_bytes)
            piece = file.read(_TAIL_BYTES)
            self._read_bytes += len(piece)
            return piece
        return b""

    def _log_tail(self) -> str:
        with suppress(FileNotFoundError), self.log.path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode(errors="replace")
        return ""

    # --- its processes -----------------------------------------------------------------------------------------------

    async def _watch_parts(self) -> None:
        """Have the kernel tell when a process of its own ends: the server would go on for seconds without it."""
        if not hasattr(os, "pidfd_open") or self.pid is None:
            return
        loop = asyncio.get_running_loop()
        for pid, name in await asyncio.to_thread(_parts_of, self.pid):
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                self._parts.append(descriptor)
                loop.add_reader(descriptor, self._part_ended, descriptor, name)

    def _part_ended(self, descriptor: int, name: str) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        self._kill_because(f"lost its process {name}")

    async def _watch_progress(self) -> None:
        watch = ProgressWatch(busy_seconds=self._busy_seconds)
        while not await set_within(self.died, WATCH_SECONDS):
            if not self._traffic.open:
                watch.stalled(Observation(time.monotonic(), 0, None, 0.0))
                continue
            steps = await self._steps()
            used = 0.0 if self.pid is None else await asyncio.to_thread(_processor_seconds, self.pid)
            seconds = watch.stalled(Observation(time.monotonic(), self._traffic.open, steps, used))
            if seconds is not None:
                self._kill_because(f"did nothing for {seconds:.0f} s although it had requests")

    def resident_bytes(self) -> int | None:
        """Of all its processes together."""
        return None if self.pid is None else peak_family_bytes(self.pid)

    async def counters(self) -> dict[str, float] | None:
        answer = await self._asked_for("/metrics")
        return None if answer is None else counted_tokens(answer.text)

    async def _steps(self) -> float | None:
        try:
            answer = await self.client.get("/metrics", timeout=HEALTH_TIMEOUT_SECONDS)
        except httpx2.TransportError:
            return None
        return steps_taken(answer.text) if answer.status_code == 200 else None

    def _kill_because(self, because: str) -> None:
        if not self.died.is_set() and self._end is None:
            self._end = because
            self._signal_group(signal.SIGKILL)


def _parts_of(pid: int) -> list[tuple[int, str]]:
    """The processes of a server besides the one that answers: the engine's core, and a worker for each device."""
    import psutil  # type: ignore[import-untyped]  # shipped without types

    found = []
    with suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                title = " ".join(child.cmdline())
                if title.startswith(_PARTS):
                    found.append((child.pid, title.removeprefix(_PARTS).strip()))
    return found


def _processor_seconds(pid: int) -> float:
    """What all processes of a server used of processors so far, in seconds."""
    import psutil

    used = 0.0
    with suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                times = child.cpu_times()
                used += times.user + times.system
    return used
