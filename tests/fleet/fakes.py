"""A small world for a fleet: models whose files script the fake worker, and a machine with as much memory as wanted."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from llmserve.errors import ModelNotFound
from llmserve.fleet.demand import Demand
from llmserve.fleet.fleet import Fleet
from llmserve.fleet.launcher import Launch, Launcher
from llmserve.fleet.lease import Lease
from llmserve.fleet.record import Instance
from llmserve.fleet.status import ModelStatus
from llmserve.planning.measurements import NOTHING_KNOWN, Knowledge
from llmserve.settings import Settings
from llmserve.state.database import Key
from llmserve.types import (
    AdapterFile,
    CpuInfo,
    DeviceMemory,
    EngineInfo,
    EnginePlan,
    HardwareInfo,
    InstalledModel,
    LayerInfo,
    MemoryInfo,
    ModelInfo,
    ModelKind,
)
from tests.fake_worker import fake_command
from tests.support import runs

GIB = 2**30


async def until(predicate: Callable[[], bool], seconds: float = 20.0) -> None:
    """Let the event loop run until `predicate` holds; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not predicate():  # noqa: ASYNC110 (what is waited for happens in other processes)
            await asyncio.sleep(0.005)


class FakeClock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeStore:
    """Models whose "file" is a script for the fake worker; each has the alias `<name>-alias`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[str, InstalledModel] = {}
        self._sizes: dict[str, int] = {}
        self._kinds: dict[str, ModelKind] = {}

    def add(
        self,
        name: str,
        *,
        size_bytes: int = 2**20,
        kind: ModelKind = "generate",
        adapters: tuple[str, ...] = (),
        **script: Any,
    ) -> Path:
        """Install a model, or change the script of one for its next load. Returns the path of its file."""
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps(script))
        self._sizes[name] = size_bytes
        self._kinds[name] = kind
        self._models[name] = InstalledModel(
            name,
            (f"{name}-alias",),
            "gguf",
            "Q4_0",
            str(path),
            size_bytes,
            "0" * 64,
            f"file:{path}",
            0.0,
            adapters=tuple(AdapterFile(f"/{adapter}.gguf", "0" * 64, name=adapter) for adapter in adapters),
        )
        return path

    def remove(self, name: str) -> None:
        del self._models[name]

    def find(self, name: str) -> InstalledModel:
        for model in self._models.values():
            if name in (model.name, *model.aliases):
                return model
        raise ModelNotFound(f"there is no model `{name}` here", param="model")

    def inspect(self, name: str) -> ModelInfo:
        size_bytes = self._sizes[self.find(name).name]
        layer = LayerInfo(size_bytes // 4, kv_heads=1, key_length=16, value_length=16, sliding_window=None)
        return ModelInfo(
            format="gguf",
            architecture="llama",
            kind=self._kinds[self.find(name).name],
            name=name,
            parameters=size_bytes,
            quantization="Q4_0",
            size_bytes=size_bytes,
            context_length=2048,
            embedding_length=64,
            feed_forward_length=128,
            heads=4,
            vocabulary=256,
            layers=(layer,) * 4,
            input_bytes=0,
            output_bytes=0,
            chat_template=None,
            license=None,
            tensor_types=(("Q4_0", 4),),
        )


class FakeMachine:
    """A machine whose available RAM is what the plans of the loaded models leave of `total`."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.fleet: Fleet | None = None

    def __call__(self) -> HardwareInfo:
        statuses = self.fleet.status() if self.fleet is not None else ()
        used = sum(memory.total for status in statuses if status.plan for memory in status.plan.memory)
        return HardwareInfo(
            system="linux",
            cpu=CpuInfo("x86_64", None, 2, 2, 2, None, ("avx2",)),
            memory=MemoryInfo(self.total, max(0, self.total - used), None),
            gpus=(),
            vulkan=None,
            engines=(EngineInfo("llama.cpp", "0", ("cpu",), "fake"),),
            notes=(),
        )


class NoHistory:
    """Keeps nothing: a fake worker takes next to nothing of what its plan says, and later plans would say so too."""

    def knowledge(self, key: Key) -> Knowledge:
        return NOTHING_KNOWN

    def note_load(self, instance: Instance, hardware_after: HardwareInfo) -> None:
        pass

    def note_run(self, instance: Instance) -> None:
        pass


class World:
    """A fleet and everything around it. Made by the fixture `world`, which also looks for what is left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FakeStore(folder)
        self.clock = FakeClock()
        self.machine = FakeMachine(64 * GIB)
        self.settings = Settings(home=folder / "home", load_timeout=20.0)
        self.launch: Launch = fake_command
        self.history: Any = NoHistory()
        self._fleet: Fleet | None = None
        self._leases: list[Lease] = []

    @property
    def fleet(self) -> Fleet:
        """The fleet, made with the settings of the first use."""
        if self._fleet is None:
            self._fleet = Fleet(
                self.store,  # type: ignore[arg-type]
                self.settings,
                launcher=Launcher(self.settings, self.launch),
                machine=self.machine,
                clock=self.clock,
                history=self.history,
            )
            self.machine.fleet = self._fleet
        return self._fleet

    def configure(self, **settings: Any) -> None:
        self.settings = replace(self.settings, **settings)

    def gate(self, name: str = "gate") -> Path:
        """A file that does not exist yet: `touch()` it to open what waits for it."""
        return self.folder / name

    def status(self, name: str) -> ModelStatus:
        """What the fleet says of a model that it knows."""
        return next(status for status in self.fleet.status() if status.name == name)

    def loaded(self) -> list[str]:
        return [status.name for status in self.fleet.status()]

    def state(self, name: str) -> str | None:
        return self.status(name).state if name in self.loaded() else None

    def waiting(self, name: str) -> int:
        return self.status(name).waiting if name in self.loaded() else 0

    def pid(self, name: str) -> int | None:
        return self.status(name).pid if name in self.loaded() else None

    async def lease(self, name: str, kind: ModelKind | None = None) -> Lease:
        """A lease that `close` releases if the test does not."""
        lease = await self.fleet.lease(name, Demand(kind=kind))
        self._leases.append(lease)
        return lease

    async def close(self) -> None:
        for lease in self._leases:
            lease.release()
        await self.fleet.close(0)

    async def load(self, name: str) -> int:
        """Load a model and leave it idle; returns the pid of its worker."""
        (await self.fleet.lease(name)).release()
        return self.status(name).pid or 0


_others: set[psutil.Process] = set()


def set_others_aside() -> None:
    """From now on `children` tells only of processes that start later."""
    _others.clear()
    _others.update(psutil.Process().children(recursive=True))


def children() -> list[psutil.Process]:
    """Every process that this test has started and that is not gone, zombies included."""
    return [process for process in psutil.Process().children(recursive=True) if process not in _others]


def alive(pid: int) -> bool:
    """Whether a process that is not a child of this one still runs; one that waits to be reaped does not."""
    try:
        return runs(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def descriptors() -> int:
    return psutil.Process(os.getpid()).num_fds()


async def ask(lease: Lease, **script: Any) -> str:
    """The text of a completion whose prompt is `script`."""
    answer = await lease.client.post("/v1/completions", json={"model": "x", "prompt": json.dumps(script)})
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["text"]
    return text


def fake_plan(*memory: DeviceMemory, fits: bool = True, parallel: int = 4, kind: ModelKind = "generate") -> EnginePlan:
    return EnginePlan(
        engine="llama.cpp",
        devices=("cpu",),
        gpu_layers=0,
        total_layers=4,
        context=2048,
        parallel=parallel,
        kv_cells=8192,
        kv_type="f16",
        threads=2,
        wait_policy="passive",
        batch=512,
        micro_batch=512,
        flash_attention=True,
        memory=memory,
        fits=fits,
        reason="because a test says so",
        refused=(),
        kind=kind,
    )


def fake_memory(device: str, needed: int, available: int | None = None) -> DeviceMemory:
    return DeviceMemory(device, weights=needed, kv_cache=0, compute=0, overhead=0, available=available)
