"""A stand-in for the module `pynvml`, with its real constants and errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar

import pynvml

MIB = 2**20
T = TypeVar("T")


def refuse(code: int) -> NoReturn:
    raise pynvml.NVMLError(code)


@dataclass
class FakeGpu:
    """One GPU, or one slice. `errors`: the fact that is refused -> the NVML error it is refused with."""

    name: str = "NVIDIA GeForce RTX 3090"
    uuid: str = "GPU-e8d14b60-2c7f-45ba-8f19-0a6c3e9d7b51"
    capability: tuple[int, int] = (8, 6)
    architecture: int = pynvml.NVML_DEVICE_ARCH_AMPERE
    total_mib: int = 24576
    free_mib: int = 24125
    slices: list[FakeGpu | None] | None = None
    errors: dict[str, int] = field(default_factory=dict)


class FakeNvml:
    def __init__(self, *gpus: FakeGpu | None, driver: str | None = "570.133.20", cuda: int | None = 12080) -> None:
        """A machine with `gpus`, None being one that fell off the bus; a version that is None is not told."""
        self._gpus, self._driver, self._cuda = gpus, driver, cuda

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvml"):
            raise AttributeError(name)
        return getattr(pynvml, name)

    def nvmlSystemGetDriverVersion(self) -> str:
        return self._driver or refuse(pynvml.NVML_ERROR_UNKNOWN)

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self._cuda or refuse(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    def nvmlDeviceGetCount(self) -> int:
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self._gpus[index] or refuse(pynvml.NVML_ERROR_GPU_IS_LOST)

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:
        return self._fact(gpu, "name", lambda: gpu.name)

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return self._fact(gpu, "uuid", lambda: gpu.uuid)

    def nvmlDeviceGetCudaComputeCapability(self, gpu: FakeGpu) -> list[int]:
        return self._fact(gpu, "capability", lambda: list(gpu.capability))

    def nvmlDeviceGetArchitecture(self, gpu: FakeGpu) -> int:
        return self._fact(gpu, "architecture", lambda: gpu.architecture)

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> SimpleNamespace:
        memory = SimpleNamespace(total=gpu.total_mib * MIB, free=gpu.free_mib * MIB)
        return self._fact(gpu, "memory", lambda: memory)

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        return [1, 1] if gpu.slices is not None else self._fact(gpu, "mig", lambda: [0, 0])

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:
        slices = gpu.slices or []
        found = slices[index] if index < len(slices) else None
        return found or refuse(pynvml.NVML_ERROR_NOT_FOUND)

    def _fact(self, gpu: FakeGpu, name: str, value: Callable[[], T]) -> T:
        return refuse(gpu.errors[name]) if name in gpu.errors else value()
