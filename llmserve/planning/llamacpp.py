"""How to run a GGUF model with llama.cpp: devices, layers, context and pool, from the memory that is free.

Preferences, in this order: every layer on GPUs (as few GPUs as hold a long context), every layer on GPUs without some
of the experts, some layers on GPUs, the CPU alone. Within each, the pool shrinks before the context, and the context
before layers leave the GPU. Where experts must, the context stays long: a token uses few of them.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace

from llmserve.planning import rules
from llmserve.planning.accelerators import Accelerator, choose_accelerators
from llmserve.planning.explain import Situation, explain
from llmserve.planning.measurements import NOTHING_KNOWN, Choices, Knowledge, TunedChoices
from llmserve.planning.memory import CELL_ALIGNMENT, Demand, kv_bytes, kv_bytes_per_token, kv_type_fits, padded
from llmserve.planning.offload import (
    Host,
    Placement,
    experts_bytes,
    missing_bytes,
    place,
    place_most,
    place_regardless,
    placement,
    total_layers,
)
from llmserve.settings import Settings
from llmserve.types import Device, DeviceMemory, EnginePlan, HardwareInfo, KvType, ModelInfo, Refusal

# The pool, in contexts: how much longer than one full-length sequence all sequences together may be.
_CPU_POOL = 2
_GPU_POOL = 4


@dataclass(frozen=True, slots=True)
class _Task:
    """One planning problem: a model on the GPUs and the RAM that may be used."""

    hardware: HardwareInfo
    model: ModelInfo
    settings: Settings
    accelerators: tuple[Accelerator, ...]
    host: Host
    tuned: TunedChoices | None

    @property
    def ram(self) -> int | None:
        return self.host.free

    @property
    def measured(self) -> Choices:
        """What measurements chose."""
        return Choices() if self.tuned is None else self.tuned.choices

    @property
    def kv_type(self) -> KvType:
        """The KV type to start from: the one asked for or measured where the model's heads allow it, else f16."""
        wanted = self.settings.kv_type or self.measured.kv_type or "f16"
        return wanted if kv_type_fits(self.model, wanted) else "f16"

    @property
    def may_split_experts(self) -> bool:
        """Whether experts can be left in RAM, and it is not the very RAM that the GPU uses."""
        return bool(experts_bytes(self.model)) and not any(gpu.unified for gpu in self.accelerators)

    @property
    def may_quantize_kv(self) -> bool:
        return self.settings.kv_type is None and kv_type_fits(self.model, "q8_0")

    def demand(self, context: int, *, on_gpu: bool, kv_type: KvType | None = None) -> Demand:
        """The least a run with this context asks for: a pool of one full-length sequence."""
        free = sum(accelerator.budget for accelerator in self.accelerators) if on_gpu else self.ram
        parallel = rules.sequences(self.hardware, self.model, self.settings, free, on_gpu=on_gpu)
        cells = padded(context)
        batch, micro_batch = rules.GPU_BATCH if on_gpu else rules.CPU_BATCH, rules.MICRO_BATCH
        outputs = parallel + rules.SPARE_ROWS
        if self.model.kind == "embed":
            # A sequence that is pooled must be one graph. It makes no logits, but llama.cpp sets room for them aside.
            batch, micro_batch, outputs = cells, cells, cells
        else:
            batch, micro_batch = self.measured.batch or batch, self.measured.micro_batch or micro_batch
        batch, kv_type = min(batch, cells), kv_type or self.kv_type
        return Demand(
            context,
            cells,
            parallel,
            kv_type,
            batch,
            min(micro_batch, batch),
            outputs,
            # llama.cpp stores keys and values in blocks only with flash attention.
            flash_attention=kv_type != "f16" or self.measured.flash_attention is not False,
        )


def plan_llama_cpp(
    hardware: HardwareInfo,
    model: ModelInfo,
    settings: Settings,
    built_for: tuple[Device, ...],
    refused: tuple[Refusal, ...],
    knowledge: Knowledge = NOTHING_KNOWN,
) -> EnginePlan:
    """The plan for an installed llama.cpp that can use `built_for`; `refused` are the engines already ruled out."""
    accelerators, unused = choose_accelerators(hardware, built_for, memory_must_be_known=settings.gpu_layers is None)
    accelerators = tuple(replace(gpu, correction=knowledge.correction(gpu.device)) for gpu in accelerators)
    host = Host(hardware.memory.available, knowledge.correction("ram"))
    tuned = knowledge.for_shape(settings.load_shape) if model.kind == "generate" else None
    task = _Task(hardware, model, settings, accelerators, host, tuned)
    chosen = _choose(task)
    situation = Situation(hardware, model, settings, accelerators, unused, tuned)
    explanation = explain(situation, chosen)
    on_cpu = () if chosen.is_whole else ("cpu",)
    demand = chosen.demand
    memory, saved_tokens = _with_saved_prefixes(task, chosen)
    prefix_disk_bytes, why_not_on_disk = _prefix_disk(task, saved_tokens)
    decided = EnginePlan(
        engine="llama.cpp",
        devices=(*(accelerator.device for accelerator in chosen.accelerators), *on_cpu),
        gpu_layers=chosen.gpu_layers,
        total_layers=chosen.total_layers,
        context=demand.context,
        parallel=demand.parallel,
        kv_cells=demand.cells,
        kv_type=demand.kv_type,
        threads=settings.threads or task.measured.threads or rules.threads(hardware.cpu, settings),
        wait_policy=task.measured.wait_policy or rules.wait_policy(hardware),
        batch=demand.batch,
        micro_batch=demand.micro_batch,
        flash_attention=demand.flash_attention,
        memory=memory,
        fits=not missing_bytes(chosen, margin=False),
        reason=explanation.reason,
        refused=(*refused, *explanation.refused, *why_not_on_disk),
        gpu_split=chosen.split,
        kv_layout=demand.layout,
        saved_tokens=saved_tokens,
        kind=model.kind,
        output_format=settings.output_format or "template",
        spare_rows=rules.SPARE_ROWS,
        prefix_disk_bytes=prefix_disk_bytes,
        experts_in_ram=chosen.experts_in_ram,
        speculation=task.measured.speculation is not False if settings.speculation is None else settings.speculation,
        first_streams=min(rules.FIRST_STREAMS, demand.parallel) if demand.layout == "split" else 0,
    )
    speed = knowledge.speed(decided)
    if speed is None:
        return decided
    return replace(decided, reason=f"{decided.reason}; its latest runs here wrote {speed:.0f} tokens per second")


def _with_saved_prefixes(task: _Task, chosen: Placement) -> tuple[tuple[DeviceMemory, ...], int]:
    """The memory of `chosen` with a part of the RAM it leaves set aside for prefixes, and how many tokens that is."""
    ram, *gpus = chosen.memory
    token_bytes = kv_bytes_per_token(task.model, chosen.demand.kv_type)
    if ram.available is None or not token_bytes or task.model.kind == "embed":
        return chosen.memory, 0
    unified = sum(entry.total for entry, gpu in zip(gpus, chosen.accelerators, strict=True) if gpu.unified)
    tokens = rules.saved_prefix_bytes(ram.available - ram.total - unified) // token_bytes
    return (replace(ram, saved_prefixes=tokens * token_bytes), *gpus), tokens


def _prefix_disk(task: _Task, saved_tokens: int) -> tuple[int, tuple[Refusal, ...]]:
    """What of the disk prefixes may take, and why that is nothing where nobody asked for that."""
    asked = task.settings.prefix_disk
    if task.model.kind == "embed" or asked == 0:
        return 0, ()
    if not saved_tokens:
        reason = "no prefixes are kept from run to run, because none are kept in RAM either"
        return 0, (Refusal("prefixes on disk", reason),)
    return rules.PREFIX_DISK_BYTES if asked is None else asked, ()


def _choose(task: _Task) -> Placement:
    asked = task.settings.gpu_layers
    if not task.accelerators or asked == 0:
        return _on_cpu(task)
    if asked is not None:
        return _as_asked(task, min(asked, total_layers(task.model)))
    return (
        _whole_on_gpu(task) or _without_experts(task, total_layers(task.model)) or _partly_on_gpu(task) or _on_cpu(task)
    )


def _whole_on_gpu(task: _Task) -> Placement | None:
    return _longest_context(task, total_layers(task.model), rules.SMALLEST_CONTEXT_ON_GPU)


def _as_asked(task: _Task, layers: int) -> Placement:
    fitting = _longest_context(task, layers, rules.SMALLEST_CONTEXT) or _without_experts(task, layers)
    if fitting is not None:
        return fitting
    shortest = rules.contexts(task.model, task.settings, rules.SMALLEST_CONTEXT)[-1]
    whole = layers == total_layers(task.model)
    demand = task.demand(shortest, on_gpu=whole)
    return place_regardless(task.model, demand, task.accelerators, layers, task.host)


def _longest_context(task: _Task, layers: int, smallest: int) -> Placement | None:
    """`layers` layers on the fewest GPUs that hold the longest context, with as large a pool as then fits."""
    by_room = sorted(task.accelerators, key=lambda accelerator: accelerator.budget, reverse=True)
    for context in rules.contexts(task.model, task.settings, smallest):
        demand = task.demand(context, on_gpu=layers == total_layers(task.model))
        for count in range(1, len(by_room) + 1):
            # llama.cpp numbers devices in the machine's order, so the subset keeps it.
            subset = [accelerator for accelerator in task.accelerators if accelerator in by_room[:count]]

            def attempt(demand: Demand, subset: list[Accelerator] = subset) -> Placement | None:
                placed = place(task.model, demand, subset, layers, task.host)
                return placed if placed and not missing_bytes(placed, margin=True) else None

            if (placed := _with_largest_pool(task, demand, _GPU_POOL, attempt)) is not None:
                return placed
    return None


def _without_experts(task: _Task, layers: int) -> Placement | None:
    """`layers` layers on the GPUs with the experts of as few of them as must be in RAM; None if that does not do.

    Where RAM lacks whatever is done, that of the shortest context: it needs the least of it.
    """
    if not task.may_split_experts:
        return None
    blocks = len(task.model.layers)
    placed: Placement | None = None
    for context in rules.contexts(task.model, task.settings, rules.SMALLEST_CONTEXT_ON_GPU):
        demand = task.demand(context, on_gpu=True)

        def attempt(count: int, demand: Demand = demand) -> Placement | None:
            return place(task.model, demand, task.accelerators, layers, task.host, count)

        if attempt(blocks) is None:
            continue
        fewest = bisect.bisect_left(range(blocks), True, key=lambda count: attempt(count) is not None)
        placed = attempt(fewest)
        if placed is not None and not missing_bytes(placed, margin=True):
            return placed
    return placed


def _partly_on_gpu(task: _Task) -> Placement | None:
    """As many layers as the GPUs hold beside a short context; what RAM lacks comes off the context, not the layers."""
    shortest = rules.contexts(task.model, task.settings, rules.SMALLEST_CONTEXT_ON_GPU)[-1]
    demand = task.demand(shortest, on_gpu=False)
    # Where not even the rest of all layers fits, no expert has a place on a GPU.
    experts_in_ram = len(task.model.layers) if task.may_split_experts else 0
    most = place_most(task.model, demand, task.accelerators, task.host, experts_in_ram)
    if not most.gpu_layers:
        return None
    smaller = task.demand(rules.contexts(task.model, task.settings, rules.SMALLEST_CONTEXT)[-1], on_gpu=False)
    demands = [demand, smaller]
    if task.may_quantize_kv:
        demands.append(replace(smaller, kv_type="q8_0", flash_attention=True))
    for candidate in demands:
        placed = place_most(task.model, candidate, task.accelerators, task.host, experts_in_ram)
        if not missing_bytes(placed, margin=True):
            return placed
    return most


def _on_cpu(task: _Task) -> Placement:
    def attempt(demand: Demand) -> Placement | None:
        placed = placement(task.model, demand, (), (), task.host)
        return None if missing_bytes(placed, margin=True) else placed

    candidates = rules.contexts(task.model, task.settings, rules.SMALLEST_CONTEXT)
    demands = [task.demand(context, on_gpu=False) for context in candidates]
    if task.may_quantize_kv:
        demands.append(replace(demands[-1], kv_type="q8_0", flash_attention=True))
    for demand in demands:
        if (placed := _with_largest_pool(task, demand, _CPU_POOL, attempt)) is not None:
            return _with_streams(task, demand, attempt) or placed
    return placement(task.model, task.demand(candidates[-1], on_gpu=False), (), (), task.host)


def _with_streams(task: _Task, demand: Demand, attempt: Callable[[Demand], Placement | None]) -> Placement | None:
    """`attempt` with a stream of its own for every sequence, where that is worth the memory."""
    cells = demand.parallel * padded(demand.context)
    needed = kv_bytes(task.model, demand.kv_type, cells, demand.parallel, demand.micro_batch)
    if task.model.kind == "embed" or demand.parallel == 1 or not rules.splits_cache(task.model, needed, task.ram):
        return None
    if task.measured.kv_layout == "unified":
        return None
    # While the cache grows, the few streams lie beside all of them.
    streams = demand.parallel + rules.FEW_STREAMS
    if attempt(replace(demand, cells=streams * padded(demand.context), parallel=streams, layout="split")) is None:
        return None
    return attempt(replace(demand, cells=cells, layout="split"))


def _with_largest_pool(
    task: _Task, demand: Demand, contexts: int, attempt: Callable[[Demand], Placement | None]
) -> Placement | None:
    """`attempt` with the largest pool that succeeds, from one context up to `contexts` of them; None if none does."""
    best = attempt(demand)
    if best is None or task.model.kind == "embed":
        return best
    low = demand.cells // CELL_ALIGNMENT
    most = padded(min(contexts, demand.parallel) * demand.context) // CELL_ALIGNMENT
    while low < most:
        middle = (low + most + 1) // 2
        placed = attempt(replace(demand, cells=middle * CELL_ALIGNMENT))
        if placed is None:
            most = middle - 1
        else:
            low, best = middle, placed
    return best
