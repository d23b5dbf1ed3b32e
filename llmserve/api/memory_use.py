"""How full the memories of this machine are, for those who watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.memory import read_memory
from llmserve.hardware.probe import probe_machine
from llmserve.types import GpuInfo, MemoryInfo

# A probe of GPUs takes a process of its own.
_GPU_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of one device, named as in plans ("ram", "cuda:0"); None where the system does not tell."""

    device: str
    total: int | None
    available: int | None


def _gpus() -> tuple[GpuInfo, ...]:
    return probe_machine().gpus


class MemoryWatch:
    """Calling it returns the use of each device. Blocks, the first call for as long as a probe; one thread at a time.

    GPUs are looked at again after ten seconds, and never where there were none. Those that share the RAM are left out.
    """

    def __init__(
        self,
        ram: Callable[[], MemoryInfo] = read_memory,
        gpus: Callable[[], tuple[GpuInfo, ...]] = _gpus,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_ram = ram
        self._probe_gpus = gpus
        self._clock = clock
        self._gpus: tuple[GpuInfo, ...] | None = None
        self._probed_at = 0.0

    def __call__(self) -> tuple[MemoryUse, ...]:
        now = self._clock()
        if self._gpus is None or (self._gpus and now - self._probed_at >= _GPU_SECONDS):
            self._gpus, self._probed_at = self._probe_gpus(), now
        own = [gpu for gpu in self._gpus if not gpu.unified_memory]
        return (
            *self._ram(),
            *(MemoryUse(f"{gpu.device}:{gpu.index}", gpu.total_memory, gpu.free_memory) for gpu in own),
        )

    def _ram(self) -> tuple[MemoryUse, ...]:
        try:
            memory = self._read_ram()
        except ProbeFailed:
            return ()
        return (MemoryUse("ram", memory.total, memory.available),)
