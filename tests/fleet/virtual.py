"""A fleet without processes, threads or real time: an event loop whose clock jumps to the next thing to happen."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from llmserve.errors import DeadlineExceeded, ModelNotFound, WorkerDied
from llmserve.types import EnginePlan, HardwareInfo, InstalledModel, MemoryInfo, ModelInfo
from tests.fleet.fakes import GIB, FakeMachine, FakeStore, fake_memory, fake_plan


class _Selector(selectors.SelectSelector):
    """Waits for nothing: time passes instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everybody waits, and nothing will ever happen")
            self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what would run in a thread at once. A schedule on it goes the same way each time."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(self, executor: Any, call: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        try:
            future.set_result(call(*args))
        except BaseException as error:
            future.set_exception(error)
        return future


class _Log:
    def tail(self) -> str:
        return "its last words"


class _Client:
    """What the watchdog asks, and who closes it."""

    def __init__(self, worker: VirtualWorker) -> None:
        self.closed = False
        self._worker = worker

    async def get(self, path: str, timeout: float) -> Any:  # noqa: ASYNC109 (httpx2's own signature)
        if self._worker.hangs_since is not None:
            await asyncio.sleep(timeout)
            raise httpx2.ReadTimeout("silent")
        self._worker.steps += 1
        return _Stats({"running": 1, "steps": self._worker.steps})

    async def aclose(self) -> None:
        self.closed = True


class _Stats:
    status_code = 200

    def __init__(self, value: dict[str, int]) -> None:
        self._value = value

    def json(self) -> dict[str, int]:
        return self._value


class VirtualWorker:
    """A worker that takes `load_seconds` to be ready, or dies at `dies_loading` seconds of them."""

    def __init__(self, world: VirtualWorld, plan: EnginePlan, model: InstalledModel) -> None:
        rng = world.rng
        self.model = model.name
        self.size = sum(memory.total for memory in plan.memory)
        self.log = _Log()
        self.died = asyncio.Event()
        self.exit_code: int | None = None
        self.progress: float | None = None
        self.phase: str | None = None
        self.pid = len(world.workers) + 1
        self.client = _Client(self)
        self.holds = 0
        self.steps = 0
        self.hangs_since: float | None = None
        self.started = False
        self._world = world
        self._load_seconds = rng.choice((0.0, 0.1, 3.0, 20.0))
        self._dies_loading = rng.random() < world.fragility
        self._end: str | None = None
        self._hung = False

    @property
    def alive(self) -> bool:
        return self.started and not self.died.is_set()

    @property
    def killed(self) -> bool:
        return False

    def resident_bytes(self) -> None:
        """No system tells what it holds."""

    @property
    def condemned(self) -> bool:
        return self._end is not None

    async def start(self) -> None:
        if self._world.rng.random() < self._world.fragility / 4:
            raise WorkerDied(f"the worker of `{self.model}` could not be started")
        self.started = True
        self._world.check_room()

    async def counters(self) -> dict[str, float] | None:
        if self.hangs_since is not None:
            await asyncio.sleep(1.0)
            return None
        return {"steps": self.steps, "generated_tokens": self.steps}

    async def ready(self, timeout_seconds: float) -> None:
        loading = asyncio.create_task(asyncio.sleep(self._load_seconds))
        dying = asyncio.create_task(self.died.wait())
        try:
            await asyncio.wait({loading, dying}, return_when=asyncio.FIRST_COMPLETED, timeout=timeout_seconds)
        finally:
            loading.cancel()
            dying.cancel()
        if self._dies_loading:
            self.die()
        if self.died.is_set():
            raise self.reason()

    async def stop(self, grace_seconds: float = 5.0, *, because: str = "was stopped") -> None:
        if not self.alive:
            return
        if self.holds and not self._world.closing:
            self._world.violations.append(f"{self.model} was stopped under {self.holds} leases")
        self._end = self._end or because
        await asyncio.sleep(self._world.rng.choice((0.0, 0.05, 1.0)) if grace_seconds else 0)
        self.die()

    def reason(self) -> WorkerDied | DeadlineExceeded:
        kind = DeadlineExceeded if self._hung else WorkerDied
        return kind(f"the worker of `{self.model}` {self._end or 'was killed by SIGKILL'}")

    def hangs(self, how: str) -> None:
        if self.alive and self._end is None:
            self._end, self._hung = how, True
            self.die()

    def die(self) -> None:
        """Its process ends, for whatever reason."""
        if self.alive:
            self.exit_code = -9
            self.died.set()


class VirtualWorld:
    """Store, launcher and machine of a fleet in one; `violations` are rules it broke."""

    def __init__(self, rng: Any, sizes: dict[str, int], total: int, fragility: float) -> None:
        self.rng = rng
        self.total = total
        self.fragility = fragility
        self.workers: list[VirtualWorker] = []
        self.violations: list[str] = []
        self.closing = False
        self.apart: tuple[str, ...] = ()
        self._sizes = sizes
        self._hardware = FakeMachine(total)()

    # --- the store ---

    def find(self, name: str) -> InstalledModel:
        if name not in self._sizes:
            raise ModelNotFound(f"there is no model `{name}` here")
        return InstalledModel(name, (), "gguf", "Q4_0", f"/{name}", self._sizes[name], "0" * 64, "file:/", 0.0)

    def inspect(self, name: str) -> ModelInfo:
        return replace(_INFO, name=name, size_bytes=self._sizes[name])

    # --- the launcher ---

    async def worker(self, plan: EnginePlan, model: InstalledModel) -> VirtualWorker:
        worker = VirtualWorker(self, plan, model)
        self.workers.append(worker)
        return worker

    async def close(self) -> None:
        self.violations += [f"{worker.model} outlived the fleet" for worker in self.workers if worker.alive]

    # --- the machine ---

    def machine(self) -> HardwareInfo:
        used = sum(worker.size for worker in self.workers if worker.alive)
        return replace(self._hardware, memory=MemoryInfo(self.total, self.total - used, None))

    def plan(self, hardware: HardwareInfo, info: ModelInfo, settings: Any, *_: Any) -> EnginePlan:
        """In place of the planner: the model's size, and whether that is free."""
        available = hardware.memory.available or 0
        memory = fake_memory("ram", info.size_bytes, available)
        return fake_plan(memory, fits=info.size_bytes <= available, parallel=settings.parallel or 1)

    def check_room(self) -> None:
        alive = [worker for worker in self.workers if worker.alive]
        names = [worker.model for worker in alive]
        if sum(worker.size for worker in alive) > self.total:
            self.violations.append(f"{' and '.join(names)} are larger than the memory")
        if len(set(names)) < len(names):
            self.violations.append(f"a model is loaded twice: {names}")
        if len(set(names) & set(self.apart)) > 1:
            self.violations.append(f"{names} may not be loaded together")


def _info() -> ModelInfo:
    store = FakeStore(Path("/tmp"))
    store._sizes["x"], store._kinds["x"] = GIB, "generate"
    store._models["x"] = InstalledModel("x", (), "gguf", "Q4_0", "/x", GIB, "0" * 64, "file:/", 0.0)
    return store.inspect("x")


_INFO = _info()
