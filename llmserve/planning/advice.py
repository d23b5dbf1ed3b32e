"""What would change a plan: how much more memory, or which build, would make it better. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llmserve.planning import rules
from llmserve.planning.accelerators import DEVICE_NAMES
from llmserve.planning.formatting import human_bytes, human_tokens
from llmserve.planning.measurements import NOTHING_KNOWN, Knowledge
from llmserve.planning.memory import GIB, MIB
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import EngineInfo, EnginePlan, GpuInfo, HardwareInfo, ModelInfo

# How finely, and how far, to look for more memory.
_STEP = 64 * MIB
_MOST = 1024 * GIB


@dataclass(frozen=True, slots=True)
class _Question:
    """The plan that was made, and what it was made from."""

    hardware: HardwareInfo
    model: ModelInfo
    settings: Settings
    knowledge: Knowledge
    decided: EnginePlan

    def plan_for(self, hardware: HardwareInfo) -> EnginePlan:
        return plan(hardware, self.model, self.settings, self.knowledge)

    @property
    def unified(self) -> bool:
        return any(gpu.unified_memory for gpu in self.hardware.gpus)


def what_would_change(
    hardware: HardwareInfo,
    model: ModelInfo,
    settings: Settings,
    decided: EnginePlan,
    knowledge: Knowledge = NOTHING_KNOWN,
) -> tuple[str, ...]:
    """Sentences such as "with 1.2 GiB more free memory on cuda:0 all 33 layers would fit"; none where all is well.

    `decided` is the plan for the other arguments. Each sentence is tried: a plan is made for the machine it describes.
    """
    if decided.engine != "llama.cpp":
        return ()
    question = _Question(hardware, model, settings, knowledge, decided)
    found = (*_other_build(question), _more_on_gpu(question), _longer_context(question), _enough_ram(question))
    return tuple(sentence for sentence in found if sentence is not None)


def _other_build(question: _Question) -> list[str]:
    """GPUs that the machine has and the installed build cannot use."""
    engine = next((info for info in question.hardware.engines if info.engine == "llama.cpp"), None)
    if engine is None or question.decided.gpu_layers:
        return []
    sentences = []
    for device in dict.fromkeys(gpu.device for gpu in question.hardware.gpus if gpu.device not in engine.devices):
        built: EngineInfo = replace(engine, devices=(device, *engine.devices))
        others = tuple(info for info in question.hardware.engines if info.engine != "llama.cpp")
        there = question.plan_for(replace(question.hardware, engines=(built, *others)))
        if there.gpu_layers:
            where = next(gpu.name for gpu in question.hardware.gpus if gpu.device == device)
            build = f"with a llama.cpp built for {DEVICE_NAMES[device]}"
            sentences.append(f"{build} {_layers(there)} would run on {where}")
    return sentences


def _more_on_gpu(question: _Question) -> str | None:
    """The memory that would take all layers to the GPUs."""
    decided = question.decided
    whole = decided.gpu_layers == decided.total_layers and not decided.experts_in_ram
    if whole or not decided.gpu_layers or question.unified or question.settings.gpu_layers is not None:
        return None
    roomiest = max(question.hardware.gpus, key=lambda gpu: gpu.free_memory or 0)

    def whole_with(extra: int) -> bool:
        there = question.plan_for(_with_more_on(question.hardware, roomiest, extra))
        return there.gpu_layers == there.total_layers and not there.experts_in_ram

    extra = _least(whole_with)
    if extra is None:
        return None
    what = "all layers and their experts" if decided.experts_in_ram else f"all {decided.total_layers} layers"
    on = next(device for device in decided.devices if device.endswith(f":{roomiest.index}") or device != "cpu")
    return f"with {human_bytes(extra)} more free memory on {on} {what} would fit"


def _longer_context(question: _Question) -> str | None:
    """The memory that would take the context to its full length, where the layers would stay where they are."""
    decided = question.decided
    wanted = rules.context_limit(question.model, question.settings)
    if decided.context >= wanted or not decided.fits or "cpu" in decided.devices[:-1]:
        return None
    on_gpu = decided.gpu_layers > 0 and not question.unified
    if on_gpu and decided.gpu_layers < decided.total_layers:
        return None  # more layers matter first, and `_more_on_gpu` tells of those
    roomiest = max(question.hardware.gpus, key=lambda gpu: gpu.free_memory or 0, default=None)

    def long_with(extra: int) -> bool:
        hardware = question.hardware
        more = (
            _with_more_on(hardware, roomiest, extra) if on_gpu and roomiest is not None else _with_ram(hardware, extra)
        )
        return question.plan_for(more).context >= wanted

    extra = _least(long_with)
    if extra is None:
        return None
    where = f"memory on {decided.devices[0]}" if on_gpu else "RAM"
    longer, shorter = human_tokens(wanted), human_tokens(decided.context)
    return f"with {human_bytes(extra)} more free {where} the context would be {longer} tokens instead of {shorter}"


def _enough_ram(question: _Question) -> str | None:
    if question.decided.fits:
        return None
    extra = _least(lambda extra: question.plan_for(_with_ram(question.hardware, extra)).fits)
    return None if extra is None else f"with {human_bytes(extra)} more free RAM it would fit"


def _layers(decided: EnginePlan) -> str:
    if decided.gpu_layers == decided.total_layers:
        return f"all {decided.total_layers} layers"
    return f"{decided.gpu_layers} of {decided.total_layers} layers"


def _least(enough: Callable[[int], bool]) -> int | None:
    """The fewest bytes for which `enough` holds, to the step; None where even the most would not do."""
    low, high = 0, _MOST // _STEP
    if not enough(high * _STEP):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle * _STEP):
            high = middle
        else:
            low = middle
    return high * _STEP


def _with_ram(hardware: HardwareInfo, extra: int) -> HardwareInfo:
    memory = hardware.memory
    total = None if memory.total is None else memory.total + extra
    available = None if memory.available is None else memory.available + extra
    return replace(hardware, memory=replace(memory, total=total, available=available))


def _with_more_on(hardware: HardwareInfo, gpu: GpuInfo, extra: int) -> HardwareInfo:
    more = replace(gpu, free_memory=(gpu.free_memory or 0) + extra)
    return replace(hardware, gpus=tuple(more if other is gpu else other for other in hardware.gpus))
