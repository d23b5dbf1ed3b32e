"""A smaller plan for a model that ran out of memory while it was loaded."""

from __future__ import annotations

from dataclasses import replace

from llmserve.planning.formatting import human_bytes
from llmserve.planning.measurements import NOTHING_KNOWN, Knowledge
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import EnginePlan, GpuInfo, HardwareInfo, ModelInfo

# How often a load is tried again; after that the plan is not what is wrong.
MOST_RETRIES = 2
# Of what the failed plan wanted.
_SMALLER = 0.85


def shrink(
    failed: EnginePlan,
    hardware: HardwareInfo,
    model: ModelInfo,
    settings: Settings,
    knowledge: Knowledge = NOTHING_KNOWN,
) -> EnginePlan | None:
    """The plan to try after `failed` ran out of memory while loading; None where there is none that takes less.

    That load has shown that less is free than was thought, so the machine is planned for as if 15 % less were free than
    the failed plan wanted: on the GPUs it used, or of the RAM where it used none with memory of its own. What settings
    fix stays fixed. `reason` says what happened.
    """
    if failed.engine != "llama.cpp":
        return None
    unified = {gpu.index for gpu in hardware.gpus if gpu.unified_memory}
    separate = any(entry.device != "ram" and _index(entry.device) not in unified for entry in failed.memory)
    if separate:
        assumed = replace(hardware, gpus=tuple(_with_less_memory(gpu, failed) for gpu in hardware.gpus))
    else:
        assumed = _with_less_ram(hardware, sum(entry.total for entry in failed.memory))
    smaller = plan(assumed, model, settings, knowledge)
    before, after = _taken(failed, on_gpus=separate), _taken(smaller, on_gpus=separate)
    if after >= before:
        return None
    numbers = f"{human_bytes(after)} instead of {human_bytes(before)}"
    return replace(
        smaller, reason=f"{smaller.reason}; smaller than at first ({numbers}), because that ran out of memory"
    )


def _with_less_ram(hardware: HardwareInfo, wanted: int) -> HardwareInfo:
    available = hardware.memory.available
    if available is None:
        return hardware
    return replace(hardware, memory=replace(hardware.memory, available=min(available, int(wanted * _SMALLER))))


def _with_less_memory(gpu: GpuInfo, failed: EnginePlan) -> GpuInfo:
    entry = next((entry for entry in failed.memory if _index(entry.device) == gpu.index), None)
    if entry is None or gpu.free_memory is None:
        return gpu
    return replace(gpu, free_memory=min(gpu.free_memory, int(entry.total * _SMALLER)))


def _taken(decided: EnginePlan, *, on_gpus: bool) -> int:
    return sum(entry.total for entry in decided.memory if not on_gpus or entry.device != "ram")


def _index(device: str) -> int | None:
    _, _, index = device.partition(":")
    return int(index) if index else None
