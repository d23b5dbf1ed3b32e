"""How to run a safetensors model with vLLM: GPUs, context and pool, from the memory that is free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmserve.planning import rules
from llmserve.planning.accelerators import margin_bytes
from llmserve.planning.formatting import human_bytes, human_tokens, listed
from llmserve.planning.measurements import NOTHING_KNOWN, Knowledge
from llmserve.planning.memory import CELL_ALIGNMENT, GIB, MIB, Demand, kv_bytes, padded, weight_bytes
from llmserve.planning.offload import GPU_RUNTIME_BYTES, PROCESS_BYTES, total_layers
from llmserve.planning.vllm_cpu import plan_vllm_cpu
from llmserve.planning.vllm_parsers import choose_parsers
from llmserve.settings import Settings
from llmserve.types import DeviceMemory, EnginePlan, GpuInfo, HardwareInfo, ModelInfo, Refusal, VllmOptions

# vLLM's wheels contain kernels from this compute capability on.
LEAST_CAPABILITY = (7, 5)
# And kernels for the type that models are trained in from this one; below it the older 16-bit type is computed in.
_BFLOAT16_CAPABILITY = (8, 0)

# Ways to quantize that need a later one, by the names that configurations give them.
_QUANTIZED_CAPABILITY = {
    "MXFP4": (8, 0),
    "GPT_OSS_MXFP4": (8, 0),
    "MODELOPT": (8, 0),
    "MODELOPT_MXFP8": (8, 0),
    "EXPERTS_INT8": (8, 0),
}
# And those that vLLM's own package does not know (any more).
_WITHOUT_KERNELS = frozenset({"BITSANDBYTES", "GGUF", "AQLM", "EETQ", "QUIP"})

_SEQUENCES = 256
_BATCH = 2048
_LARGE_BATCH = 8192
# The CUDA context, the captured graphs and the communication buffers of one GPU.
_OVERHEAD = GIB + 512 * MIB
# vLLM's process imports torch and maps the weights while it loads them.
_HOST_BYTES = 4 * GIB


@dataclass(frozen=True, slots=True)
class _Candidate:
    gpus: tuple[GpuInfo, ...]
    demand: Demand
    memory: tuple[DeviceMemory, ...]


def unusable(gpu: GpuInfo, model: ModelInfo | None = None) -> str | None:
    """Why vLLM cannot use `gpu` (for `model`), or None if it can."""
    if gpu.device != "cuda":
        return "vLLM is planned on CUDA GPUs only"
    if gpu.compute_capability is None:
        return "its compute capability is not known"
    least = LEAST_CAPABILITY if model is None else _QUANTIZED_CAPABILITY.get(model.quantization, LEAST_CAPABILITY)
    if gpu.compute_capability < least:
        capability, needed = (".".join(map(str, pair)) for pair in (gpu.compute_capability, least))
        kernels = "" if least == LEAST_CAPABILITY or model is None else f", which {model.quantization} weights need"
        return f"its compute capability {capability} is below {needed}{kernels}"
    if gpu.free_memory is None:
        return "how much of its memory is free is not known"
    return None


def unreadable(model: ModelInfo) -> str | None:
    """Why vLLM cannot load `model` on any device, or None if it can."""
    if model.quantization in _WITHOUT_KERNELS:
        return f"it cannot load weights quantized with {model.quantization.lower()}"
    return None


def plan_vllm(
    hardware: HardwareInfo,
    model: ModelInfo,
    settings: Settings,
    refused: tuple[Refusal, ...],
    knowledge: Knowledge = NOTHING_KNOWN,
) -> EnginePlan:
    """The plan for an installed vLLM; at least one GPU of `hardware` must be usable, or the build be one for CPUs.

    Tensor parallelism takes the fewest equal GPUs that hold the weights and the longest context; their number is a
    power of two that divides the attention heads.
    """
    if "cuda" not in next((info.devices for info in hardware.engines if info.engine == "vllm"), ()):
        return plan_vllm_cpu(hardware, model, settings, refused, knowledge.correction("ram"))
    groups = _groups(hardware, model)
    chosen, fits = _choose(groups, model, settings, knowledge)
    devices = tuple(f"cuda:{gpu.index}" for gpu in chosen.gpus)
    idle = []
    for gpu in hardware.gpus:
        if gpu not in chosen.gpus:
            why = unusable(gpu, model) or f"{listed(devices)} {'hold' if len(devices) > 1 else 'holds'} the model"
            idle.append(Refusal(f"{gpu.device}:{gpu.index}", f"{gpu.name} is not used, because {why}"))
    idle.append(Refusal("cpu", f"not used for layers, because all of them are on {listed(devices)}"))
    overhead = PROCESS_BYTES + GPU_RUNTIME_BYTES + _HOST_BYTES
    correction = knowledge.correction("ram")
    host = DeviceMemory("ram", 0, 0, 0, overhead, hardware.memory.available, correction=correction)
    memory = (host, *chosen.memory)
    fits = fits and (host.available is None or host.total <= host.available)
    demand = chosen.demand
    return EnginePlan(
        engine="vllm",
        devices=devices,
        gpu_layers=total_layers(model),
        total_layers=total_layers(model),
        context=demand.context,
        parallel=demand.parallel,
        kv_cells=demand.cells,
        kv_type="f16",
        threads=rules.threads(hardware.cpu, settings),
        wait_policy=rules.wait_policy(hardware),
        batch=demand.batch,
        micro_batch=demand.micro_batch,
        flash_attention=True,
        memory=memory,
        fits=fits,
        reason=_reason(model, settings, chosen, memory),
        refused=(*refused, *idle),
        kind=model.kind,
        vllm=_options(model, settings, chosen),
    )


def _options(model: ModelInfo, settings: Settings, chosen: _Candidate) -> VllmOptions:
    old = any((gpu.compute_capability or LEAST_CAPABILITY) < _BFLOAT16_CAPABILITY for gpu in chosen.gpus)
    parsers = choose_parsers(model)
    return VllmOptions(
        dtype="half" if old else "auto",
        kv_cache_bytes=chosen.memory[0].kv_cache,
        eager=settings.fast_start is True,
        tool_parser=parsers.tool,
        reasoning_parser=parsers.reasoning,
    )


def _groups(hardware: HardwareInfo, model: ModelInfo) -> list[tuple[GpuInfo, ...]]:
    """The sets of GPUs to try, smallest first: equal cards, the emptiest ones, as many as divide the heads."""
    by_name: dict[str, list[GpuInfo]] = {}
    for gpu in hardware.gpus:
        if unusable(gpu, model) is None:
            by_name.setdefault(gpu.name, []).append(gpu)
    groups = []
    for cards in by_name.values():
        emptiest = sorted(cards, key=lambda gpu: gpu.free_memory or 0, reverse=True)
        count = 1
        while count <= len(emptiest) and model.heads % count == 0:
            groups.append(tuple(sorted(emptiest[:count], key=lambda gpu: gpu.index)))
            count *= 2
    return sorted(groups, key=lambda gpus: (len(gpus), -_least_free(gpus)))


def _choose(
    groups: Sequence[tuple[GpuInfo, ...]], model: ModelInfo, settings: Settings, knowledge: Knowledge
) -> tuple[_Candidate, bool]:
    """The best candidate and whether it fits."""
    lengths = rules.contexts(model, settings, rules.SMALLEST_CONTEXT)
    for context in lengths:
        for gpus in groups:
            candidate = _candidate(gpus, model, settings, context, knowledge)
            if _room(candidate) >= 0:
                return _with_largest_pool(candidate, model, knowledge), True
    roomiest = max(groups, key=lambda gpus: len(gpus) * _least_free(gpus))
    candidate = _candidate(roomiest, model, settings, lengths[-1], knowledge)
    return candidate, all(entry.available is None or entry.total <= entry.available for entry in candidate.memory)


def _candidate(
    gpus: tuple[GpuInfo, ...], model: ModelInfo, settings: Settings, context: int, knowledge: Knowledge
) -> _Candidate:
    batch = _LARGE_BATCH if _least_free(gpus) >= 40 * GIB else _BATCH
    parallel = settings.parallel or _SEQUENCES
    demand = Demand(context, padded(context), parallel, "f16", batch, batch, parallel)
    return _Candidate(gpus, demand, _memory(gpus, model, demand, knowledge))


def _memory(
    gpus: tuple[GpuInfo, ...], model: ModelInfo, demand: Demand, knowledge: Knowledge
) -> tuple[DeviceMemory, ...]:
    """Bytes on each GPU: weights are sliced evenly, a KV head is whole, so more GPUs than KV heads keep copies."""
    count = len(gpus)
    kv_heads = max((layer.kv_heads for layer in model.layers), default=0)
    cache = kv_bytes(model, "f16", demand.cells, demand.parallel, demand.batch) // min(count, max(1, kv_heads))
    # 16-bit activations of the largest step, and two copies of the logits of every sequence.
    activations = 2 * demand.batch * (10 * model.embedding_length + 2 * model.feed_forward_length // count)
    logits = 8 * demand.outputs * model.vocabulary
    return tuple(
        DeviceMemory(
            device=f"cuda:{gpu.index}",
            weights=-(-weight_bytes(model) // count),
            kv_cache=cache,
            compute=activations + logits,
            overhead=_OVERHEAD,
            available=gpu.free_memory,
            correction=knowledge.correction(f"cuda:{gpu.index}"),
        )
        for gpu in gpus
    )


def _room(candidate: _Candidate) -> int:
    """Bytes left on the fullest GPU after the margin; negative when they do not suffice."""
    return min(
        entry.available - margin_bytes(entry.available, least=512 * MIB) - entry.total
        for entry in candidate.memory
        if entry.available is not None
    )


def _with_largest_pool(candidate: _Candidate, model: ModelInfo, knowledge: Knowledge) -> _Candidate:
    """Paged attention uses whatever the pool holds, so it gets all the room, up to every sequence at full length."""
    demand = candidate.demand
    low, most = demand.cells // CELL_ALIGNMENT, padded(demand.parallel * demand.context) // CELL_ALIGNMENT
    best = candidate
    while low < most:
        middle = (low + most + 1) // 2
        grown = replace(demand, cells=middle * CELL_ALIGNMENT)
        trial = _Candidate(candidate.gpus, grown, _memory(candidate.gpus, model, grown, knowledge))
        if _room(trial) < 0:
            most = middle - 1
        else:
            low, best = middle, trial
    return best


def _reason(model: ModelInfo, settings: Settings, chosen: _Candidate, memory: Sequence[DeviceMemory]) -> str:
    names = listed([f"cuda:{gpu.index} ({gpu.name})" for gpu in chosen.gpus])
    needed, free = (sum(values) for values in zip(*((e.total, e.available or 0) for e in memory[1:]), strict=True))
    weights = human_bytes(sum(entry.weights for entry in memory[1:]))
    cache = human_bytes(sum(entry.kv_cache for entry in memory[1:]))
    contents = (
        f"{weights} of {model.quantization} weights and a {human_tokens(chosen.demand.cells)}-token pool ({cache})"
    )
    if needed <= free:
        verdict = f"fit in {human_bytes(free)} of free GPU memory"
    else:
        verdict = f"need {human_bytes(needed)} of GPU memory, {human_bytes(needed - free)} more than is free"
    clauses = [f"{contents} {verdict}"]
    wanted = rules.context_limit(model, settings)
    if chosen.demand.context < wanted:
        shorter, longer = human_tokens(chosen.demand.context), human_tokens(wanted)
        clauses.append(f"the context is {shorter} instead of {longer} tokens to save memory")
    if settings.kv_type not in {None, "f16"}:
        clauses.append(f"the KV cache stays 16-bit, because vLLM has no {settings.kv_type}")
    host = memory[0]
    if host.available is not None and host.total > host.available:
        clauses.append(f"{human_bytes(host.total - host.available)} of RAM are missing")
    return f"vLLM on {names}: {'; '.join(clauses)}"


def _least_free(gpus: Sequence[GpuInfo]) -> int:
    return min(gpu.free_memory or 0 for gpu in gpus)
