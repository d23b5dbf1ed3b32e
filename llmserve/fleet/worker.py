"""One child process that serves one model."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from llmserve.errors import DeadlineExceeded, WorkerDied
from llmserve.fleet.connection import WorkerConnection, connect
from llmserve.fleet.orphans import note, note_beside
from llmserve.fleet.transport import WorkerTransport
from llmserve.fleet.waiting import set_within
from llmserve.fleet.worker_log import WorkerLog
from llmserve.hardware.surroundings import peak_resident_bytes

if TYPE_CHECKING:
    from llmserve.engines.command import Command

logger = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 5.0
HEALTH_POLL_SECONDS = 0.03
HEALTH_TIMEOUT_SECONDS = 5.0
# A worker that is busy with more urgent things does not say what it counts.
COUNTERS_SECONDS = 1.0
# Where memory runs out the kernel shall take a worker, not the gateway.
OOM_SCORE_ADJUSTMENT = 500


class Worker:
    """A worker process: `start()` once, wait for `ready()`, use `client` until `died` is set.

    The process leads a group of its own, and its standard input is a pipe that this object keeps open: it ends when
    the gateway does. When it has ended, for whatever reason, it is reaped, the rest of its group is killed and its
    socket removed before `died` is set; `exit_code` is then the exit status, or minus the signal's number.

    `client` speaks HTTP to it with the base URL `http://worker` and no limit on the time an answer takes; whoever
    holds the worker closes it. `progress` is what the worker last said of its loading, 0 to 1, None if nothing; `phase`
    what it is doing then, in words, None where it does not say.
    """

    def __init__(self, model: str, command: Command, socket: Path, log: WorkerLog) -> None:
        self.model = model
        self.log = log
        self.died = asyncio.Event()
        self.exit_code: int | None = None
        self.progress: float | None = None
        self.phase: str | None = None
        self.client = _client(socket)
        self._command = command
        self._socket = socket
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._loaded = False
        self._end: str | None = None
        self._hung = False

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def killed(self) -> bool:
        """Whether somebody else ended it by SIGKILL, as the kernel does when memory runs out."""
        return self.exit_code == -signal.SIGKILL and self._end is None

    async def start(self) -> None:
        """Start the process. Raises `WorkerDied` if the system refuses."""
        try:
            # Opened here and not in a thread: cancelled between the two, this call would lose the descriptor.
            log = self.log.open()
            try:
                self._process = await self._spawn(log)
            finally:
                os.close(log)
        except OSError as error:
            raise WorkerDied(f"the worker of `{self.model}` could not be started: {error.strerror}") from error
        self._watcher = asyncio.create_task(self._watch(self._process), name=f"watch {self.model}")
        _offer_to_oom_killer(self._process.pid)
        note(self._socket, self._process.pid)

    async def ready(self, timeout_seconds: float) -> None:
        """Wait until `/health` says 200.

        Raises `WorkerDied` if the process ends first, answers something that is not the protocol, or takes longer;
        it is not stopped by this.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while not await self._healthy():
                    await set_within(self.died, HEALTH_POLL_SECONDS)
        except TimeoutError:
            self._end = f"was not ready after {timeout_seconds:g} s"
            raise self.reason() from None
        self._loaded = True
        self.progress = None

    async def stop(self, grace_seconds: float = STOP_GRACE_SECONDS, *, because: str = "was stopped") -> None:
        """End the process and wait for its end: SIGTERM to its group and, `grace_seconds` later, SIGKILL.

        `because` completes the sentence "the worker of `x` ..." in `reason()`. May be called at any time, also twice.
        """
        if self._process is None or self.died.is_set():
            return
        self._end = self._end or because
        if grace_seconds > 0:
            self._signal_group(signal.SIGTERM)
            await set_within(self.died, grace_seconds)
        if not self.died.is_set():
            self._signal_group(signal.SIGKILL)
            await self.died.wait()

    @property
    def condemned(self) -> bool:
        """Whether it is about to end, whatever it answers."""
        return self._end is not None

    def condemn(self, because: str) -> None:
        """Kill it now, because it does what it must not; `because` is logged. Its end counts as a failure."""
        self._kill("did not keep to the protocol", because)

    def hangs(self, how: str) -> None:
        """Kill it now, because it does nothing; `how` completes the sentence "the worker of `x` ..."."""
        if self._kill(how, how):
            self._hung = True

    def _kill(self, end: str, because: str) -> bool:
        if self.died.is_set() or self._end is not None:
            return False
        logger.error("the worker of %s (pid %s) is killed: it %s", self.model, self.pid, because)
        self._end = end
        self._signal_group(signal.SIGKILL)
        return True

    async def connect(self, timeout_seconds: float | None) -> WorkerConnection:
        """A connection of its own for one request. Raises httpx2's `ConnectError` or `ConnectTimeout`."""
        return await connect(self._socket, timeout_seconds)

    async def counters(self) -> dict[str, float] | None:
        """What it has counted since its start, by the names in `GET /stats`; None where it does not say at once."""
        answer = await self._asked_for("/stats")
        try:
            stats = None if answer is None else answer.json()
        except ValueError:
            return None
        if not isinstance(stats, dict):
            return None
        return {name: value for name, value in stats.items() if type(value) in (int, float) and value >= 0}

    def resident_bytes(self) -> int | None:
        """The most RAM that it has held so far, None where the system does not tell. Blocks."""
        return None if self.pid is None else peak_resident_bytes(self.pid)

    async def _asked_for(self, path: str) -> httpx2.Response | None:
        """The answer, if there is a good one within a second."""
        try:
            async with asyncio.timeout(COUNTERS_SECONDS):
                answer = await self.client.get(path)
        except (TimeoutError, httpx2.TransportError):
            return None
        return answer if answer.status_code == httpx2.codes.OK else None

    def reason(self) -> WorkerDied | DeadlineExceeded:
        """Why this worker is of no use any more, fit for a client: no path and no text of the engine's own in it."""
        if self._end is not None:
            end = self._end
        elif self.exit_code is None:
            end = "closed the connection"
        else:
            end = _describe_exit(self.exit_code) + ("" if self._loaded else " while loading")
        kind = DeadlineExceeded if self._hung else WorkerDied
        return kind(f"the worker of `{self.model}` {end}", hint="`llmserve ps` shows the last lines of its log")

    async def _spawn(self, log: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
            env=dict(self._command.environment),
            cwd="/",
            start_new_session=True,
        )

    async def _healthy(self) -> bool:
        """Ask once. Raises as `ready` does."""
        if self.died.is_set():
            raise self.reason()
        try:
            answer = await self.client.get("/health", timeout=HEALTH_TIMEOUT_SECONDS)
        except httpx2.TransportError:
            return False  # not listening yet, too busy to answer, or dying: the next round knows more
        if answer.status_code == 503:
            self.progress = _progress(answer)
        elif answer.status_code != 200:
            self._end = "did not speak the worker protocol"
            raise self.reason()
        return answer.status_code == 200

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        self._signal_group(signal.SIGKILL)  # helpers that the process started and left behind
        if process.stdin is not None:
            process.stdin.close()
        for path in (self._socket, note_beside(self._socket)):
            path.unlink(missing_ok=True)
        self.exit_code = code
        await self._ended()
        self.died.set()

    async def _ended(self) -> None:
        """What a kind of worker does when it has ended, before anybody is told."""

    def _signal_group(self, number: signal.Signals) -> None:
        # PermissionError is how macOS says that all of the group have ended.
        with suppress(ProcessLookupError, PermissionError):
            if self._process is not None:
                os.killpg(self._process.pid, number)


def _client(socket: Path) -> httpx2.AsyncClient:
    # Bounded by the fleet's queue, not here.
    return httpx2.AsyncClient(
        transport=WorkerTransport(socket),
        base_url="http://worker",
        timeout=httpx2.Timeout(None, connect=HEALTH_TIMEOUT_SECONDS),
        trust_env=False,
    )


def _progress(answer: httpx2.Response) -> float | None:
    """The progress that a loading worker reports in its answer to `/health`, if it reports any."""
    try:
        body = answer.json()
    except ValueError:
        return None
    progress = body.get("progress") if isinstance(body, dict) else None
    return float(progress) if isinstance(progress, int | float) and 0 <= progress <= 1 else None


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"


def _offer_to_oom_killer(pid: int) -> None:
    if sys.platform == "linux":
        with suppress(OSError):  # already gone, or not permitted in this container
            Path(f"/proc/{pid}/oom_score_adj").write_text(f"{OOM_SCORE_ADJUSTMENT}", encoding="ascii")
