"""NVIDIA GPUs by NVML, the driver's own library. It is loaded in a probe child only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from llmserve.hardware.child import run_child
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.gpus import parse_gpus, select_visible
from llmserve.types import GpuInfo

T = TypeVar("T")

# nvmlDeviceArchitecture_t
_ARCHITECTURES = {
    2: "kepler",
    3: "maxwell",
    4: "pascal",
    5: "volta",
    6: "turing",
    7: "ampere",
    8: "ada",
    9: "hopper",
    10: "blackwell",
    13: "rubin",
}


def probe_nvidia(*, timeout: float, system: str, environ: Mapping[str, str]) -> tuple[GpuInfo, ...]:
    """The GPUs a CUDA program started from here would see. Raises `ProbeFailed` when there is none."""
    if system == "darwin":
        raise ProbeFailed("macOS has no NVIDIA driver")
    gpus = parse_gpus(run_child(f"{__name__}:read_nvml", timeout=timeout))
    visible = select_visible(gpus, environ.get("CUDA_VISIBLE_DEVICES"))
    if not visible:
        raise ProbeFailed("CUDA_VISIBLE_DEVICES hides every GPU")
    return visible


def read_nvml() -> tuple[GpuInfo, ...]:
    """Ask the driver. Loads native code: run it in a child. Raises `ProbeFailed` when there is no usable GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise ProbeFailed(explain(pynvml, error)) from error
    try:
        return list_gpus(pynvml)
    except pynvml.NVMLError as error:
        raise ProbeFailed(explain(pynvml, error)) from error
    finally:
        pynvml.nvmlShutdown()


def list_gpus(nvml: Any) -> tuple[GpuInfo, ...]:
    """Every GPU and, where a GPU is divided, its MIG slices instead, as NVML (the module `pynvml`) tells of them.

    Raises `ProbeFailed` when there is none.
    """
    driver = _optional(nvml, nvml.nvmlSystemGetDriverVersion)
    cuda = _cuda_version(_optional(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2))
    gpus: list[GpuInfo] = []
    divided = 0
    for position in range(nvml.nvmlDeviceGetCount()):
        # A GPU that fell off the bus still counts; it has no handle.
        handle = _optional(nvml, nvml.nvmlDeviceGetHandleByIndex, position)
        if handle is None:
            continue
        parts = [handle]
        if _is_divided(nvml, handle):
            divided += 1
            parts = list(_slices(nvml, handle))
        gpus += [_describe(nvml, part, handle, len(gpus) + n, (driver, cuda)) for n, part in enumerate(parts)]
    if not gpus:
        raise ProbeFailed("MIG is on and no slice exists" if divided else "the NVIDIA driver finds no GPU")
    return tuple(gpus)


def explain(nvml: Any, error: Any) -> str:
    """NVML's error as a reason in words; `error` is a `pynvml.NVMLError`."""
    reasons = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 is not installed",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver and its library differ in version (reboot)",
        nvml.NVML_ERROR_NO_PERMISSION: "this user may not use the NVIDIA driver",
    }
    return reasons.get(error.value, f"NVML says: {error}")


def _describe(nvml: Any, part: Any, gpu: Any, index: int, versions: tuple[str | None, str | None]) -> GpuInfo:
    """One GPU, or the slice `part` of `gpu`. A slice has a name, UUID and memory; the rest is its GPU's."""
    memory, shared = _memory(nvml, part)
    capability = _optional(nvml, nvml.nvmlDeviceGetCudaComputeCapability, gpu)
    return GpuInfo(
        device="cuda",
        index=index,
        name=_optional(nvml, nvml.nvmlDeviceGetName, part) or "NVIDIA GPU",
        uuid=_optional(nvml, nvml.nvmlDeviceGetUUID, part),
        compute_capability=None if capability is None else (capability[0], capability[1]),
        architecture=_ARCHITECTURES.get(_optional(nvml, nvml.nvmlDeviceGetArchitecture, gpu) or 0),
        total_memory=None if memory is None else memory.total,
        free_memory=None if memory is None else memory.free,
        driver_version=versions[0],
        runtime_version=versions[1],
        unified_memory=shared,
    )


def _memory(nvml: Any, handle: Any) -> tuple[Any, bool]:
    """The memory record and whether the GPU shares the RAM: NVML supports no record where there is no other memory."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle), False
    except nvml.NVMLError as error:
        return None, error.value == nvml.NVML_ERROR_NOT_SUPPORTED


def _is_divided(nvml: Any, handle: Any) -> bool:
    mode = _optional(nvml, nvml.nvmlDeviceGetMigMode, handle)
    return mode is not None and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE


def _slices(nvml: Any, handle: Any) -> Iterator[Any]:
    for position in range(_optional(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        found = _optional(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, position)
        if found is not None:
            yield found


def _optional(nvml: Any, call: Callable[..., T], *arguments: object) -> T | None:
    """What `call` says, or None where this driver or GPU does not say it."""
    try:
        return call(*arguments)
    except nvml.NVMLError:
        return None


def _cuda_version(number: int | None) -> str | None:
    """NVML's 12080 as "12.8"."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None
