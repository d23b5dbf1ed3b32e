"""The machines of `tests/machines`, and ways to change one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmserve.types import Device, EngineInfo, HardwareInfo, from_json

FOLDER = Path(__file__).parent.parent / "machines"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def machine(name: str) -> HardwareInfo:
    return from_json(HardwareInfo, (FOLDER / f"{name}.json").read_bytes())


def with_free_gpu_memory(hardware: HardwareInfo, *free: int | None) -> HardwareInfo:
    """`hardware` with this much free memory on each of its GPUs."""
    gpus = tuple(replace(gpu, free_memory=size) for gpu, size in zip(hardware.gpus, free, strict=True))
    return replace(hardware, gpus=gpus)


def with_ram(hardware: HardwareInfo, available: int | None) -> HardwareInfo:
    return replace(hardware, memory=replace(hardware.memory, available=available))


def with_engines(hardware: HardwareInfo, *, llama: Sequence[Device] = (), vllm: Sequence[Device] = ()) -> HardwareInfo:
    """`hardware` with engines built for these devices (none: not installed)."""
    return replace(
        hardware, engines=(EngineInfo("llama.cpp", None, tuple(llama), ""), EngineInfo("vllm", None, tuple(vllm), ""))
    )
