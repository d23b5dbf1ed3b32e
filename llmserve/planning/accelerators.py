"""Which GPUs of a machine the installed llama.cpp can put layers on, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmserve.planning.formatting import listed
from llmserve.planning.memory import GIB, MIB
from llmserve.types import Device, GpuInfo, HardwareInfo, Refusal

DEVICE_NAMES: dict[Device, str] = {"cpu": "CPU", "cuda": "CUDA", "rocm": "ROCm", "metal": "Metal", "vulkan": "Vulkan"}
# What a runtime takes for itself on the GPU before the first tensor (context, kernels, library workspaces).
_OVERHEAD: dict[Device, int] = {
    "cpu": 0,
    "cuda": 400 * MIB,
    "rocm": 400 * MIB,
    "vulkan": 200 * MIB,
    "metal": 100 * MIB,
}


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU as a place for layers.

    `device` is its name in the plan ("cuda:0"); `free` the bytes it may take (None: not known), for a `unified` one
    a share of the RAM; `overhead` what its runtime needs for itself; `correction` what earlier loads took beyond their
    estimates.
    """

    device: str
    name: str
    free: int | None
    overhead: int
    unified: bool
    correction: int = 0

    @property
    def budget(self) -> int:
        """Bytes to plan with: what is free less a margin, 0 where nothing is known."""
        return 0 if self.free is None else max(0, self.free - margin_bytes(self.free, least=256 * MIB))


def margin_bytes(free: int, *, least: int) -> int:
    """What to leave of `free` bytes for estimates that are off and for other programs: 5 %, at most 1 GiB."""
    return min(GIB, max(least, free // 20))


def unified_share(device: Device, total: int) -> int:
    """How much of `total` RAM a GPU without memory of its own may take.

    Metal's recommended working set is two thirds of the RAM, three quarters above 36 GiB; the drivers of integrated
    AMD and Intel GPUs map half; CUDA on a shared-memory board takes all but what the system needs, a tenth.
    """
    if device == "metal":
        return total * 2 // 3 if total <= 36 * GIB else total * 3 // 4
    return total * 9 // 10 if device == "cuda" else total // 2


def choose_accelerators(
    hardware: HardwareInfo, built_for: Sequence[Device], *, memory_must_be_known: bool
) -> tuple[tuple[Accelerator, ...], tuple[Refusal, ...]]:
    """The GPUs to use, in the machine's order, and one refusal for each of the others.

    All are driven by one runtime: the one with the most free memory. An integrated GPU is not mixed with a discrete
    one. With `memory_must_be_known`, a GPU whose free memory is not known is refused.
    """
    usable: list[tuple[Device, Accelerator]] = []
    refused: list[Refusal] = []
    for gpu in hardware.gpus:
        runtime = _runtime(gpu, built_for, hardware.vulkan)
        if runtime is None:
            refused.append(_refusal(gpu, _other_build(built_for)))
            continue
        accelerator = _accelerator(gpu, runtime, hardware)
        if accelerator.free is None and memory_must_be_known:
            refused.append(_refusal(gpu, "how much of its memory is free is not known (set `gpu_layers` to use it)"))
            continue
        usable.append((runtime, accelerator))
    chosen = _of_one_kind(usable)
    for _, accelerator in usable:
        if accelerator not in chosen:
            reason = f"it is not mixed with {listed([other.name for other in chosen])}"
            refused.append(Refusal(accelerator.device, f"{accelerator.name} is not used, because {reason}"))
    return chosen, tuple(refused)


def _runtime(gpu: GpuInfo, built_for: Sequence[Device], vulkan: bool | None) -> Device | None:
    if gpu.device in built_for:
        return gpu.device
    # A Vulkan build drives nearly every GPU, if the machine has a Vulkan driver at all.
    if "vulkan" in built_for and gpu.device != "metal" and vulkan is not False:
        return "vulkan"
    return None


def _accelerator(gpu: GpuInfo, runtime: Device, hardware: HardwareInfo) -> Accelerator:
    free = gpu.free_memory
    if gpu.unified_memory:
        total = hardware.memory.total
        free = None if total is None else unified_share(gpu.device, total)
    return Accelerator(f"{runtime}:{gpu.index}", gpu.name, free, _OVERHEAD[runtime], gpu.unified_memory)


def _of_one_kind(usable: Sequence[tuple[Device, Accelerator]]) -> tuple[Accelerator, ...]:
    kinds: dict[tuple[bool, Device], list[Accelerator]] = {}
    for runtime, accelerator in usable:
        kinds.setdefault((not accelerator.unified, runtime), []).append(accelerator)
    if not kinds:
        return ()
    best = max(kinds, key=lambda kind: (kind[0], sum(accelerator.free or 0 for accelerator in kinds[kind])))
    return tuple(kinds[best])


def _other_build(built_for: Sequence[Device]) -> str:
    names = listed([DEVICE_NAMES[device] for device in built_for])
    return f"the installed llama.cpp was built for {names} only (`llmserve engines install llama.cpp` mends that)"


def _refusal(gpu: GpuInfo, reason: str) -> Refusal:
    return Refusal(f"{gpu.device}:{gpu.index}", f"{gpu.name} is not used, because {reason}")
