"""Why a llama.cpp plan is as it is: one sentence for what was chosen, one for each device that was not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmserve.planning import rules
from llmserve.planning.accelerators import Accelerator
from llmserve.planning.formatting import counted, human_bytes, human_tokens, listed
from llmserve.planning.measurements import Choices, TunedChoices, described_load
from llmserve.planning.offload import Placement, missing_bytes
from llmserve.settings import Settings
from llmserve.types import DeviceMemory, HardwareInfo, ModelInfo, Refusal


@dataclass(frozen=True, slots=True)
class Explanation:
    """`reason`: the plan in one sentence; `refused`: every device that was not taken, in the machine's order."""

    reason: str
    refused: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a plan was made from: `accelerators` could have been used, `unused` could not, and say why themselves."""

    hardware: HardwareInfo
    model: ModelInfo
    settings: Settings
    accelerators: Sequence[Accelerator]
    unused: Sequence[Refusal]
    tuned: TunedChoices | None = None


def explain(situation: Situation, chosen: Placement) -> Explanation:
    """Put `chosen` into words."""
    hardware, model, settings = situation.hardware, situation.model, situation.settings
    refused = (*situation.unused, *_idle(situation.accelerators, chosen, settings))
    if not hardware.gpus:
        refused = (Refusal("gpu", "no GPU was found"),)
    clauses = [_memory_clause(model, chosen), *_deviations(situation, chosen)]
    clauses += _measured(situation.tuned, chosen, settings)
    if not chosen.accelerators:
        clauses.insert(0, _why_no_gpu(settings, refused))
    reason = f"llama.cpp on {_where(situation, chosen)}: {'; '.join(clauses)}"
    if chosen.is_whole:
        names = listed([accelerator.device for accelerator in chosen.accelerators])
        refused = (*refused, Refusal("cpu", f"not used for layers, because all of them are on {names}"))
    return Explanation(reason, refused)


def _measured(tuned: TunedChoices | None, chosen: Placement, settings: Settings) -> list[str]:
    """A clause for each way in which measurements on this machine took the place of rules and estimates."""
    clauses = []
    corrections = [(entry.device, entry.correction) for entry in chosen.memory if entry.correction]
    if corrections:
        amounts = [f"{'+' if size > 0 else '-'}{human_bytes(abs(size))} on {device}" for device, size in corrections]
        clauses.append(f"the estimate is corrected by what earlier loads took ({', '.join(amounts)})")
    if tuned is not None:
        clauses.append(_tuned(tuned, settings))
    return clauses


def _tuned(tuned: TunedChoices, settings: Settings) -> str:
    who = described_load(tuned.shape, tuned.clients)
    speed, gain = tuned.tokens_per_second, tuned.tokens_per_second / tuned.rules_tokens_per_second
    if tuned.choices == Choices():
        return (
            f"nothing that was measured here for {who} was faster than the rules' plan ({speed:.0f} tokens per second)"
        )
    fixed = [name for name in ("threads", "kv_type", "speculation") if getattr(settings, name) is not None]
    if any(getattr(tuned.choices, name) is not None for name in fixed):
        return f"of what was the fastest here for {who} ({tuned.choices.described()}) the settings leave only a part"
    return (
        f"{tuned.choices.described()}: the fastest measured here for {who} "
        f"({speed:.0f} tokens per second, {gain:.2f} times those of the rules)"
    )


def _idle(accelerators: Sequence[Accelerator], chosen: Placement, settings: Settings) -> list[Refusal]:
    """Refusals of the GPUs that could be used and hold no layer."""
    used = [accelerator.device for accelerator in chosen.accelerators]
    refused = []
    for accelerator in accelerators:
        if accelerator.device in used:
            continue
        if settings.gpu_layers is not None:
            reason = (
                f"the {settings.gpu_layers} layers asked for fit on {listed(used)}" if used else "`gpu_layers` is 0"
            )
        elif chosen.is_whole:
            reason = f"the model fits on {listed(used)}"
        else:
            reason = f"its {human_bytes(accelerator.free or 0)} of free memory do not hold a layer and its work space"
        refused.append(Refusal(accelerator.device, f"{accelerator.name} is not used, because {reason}"))
    return refused


def _why_no_gpu(settings: Settings, refused: Sequence[Refusal]) -> str:
    if settings.gpu_layers:
        return f"{refused[0].reason}, so `gpu_layers` = {settings.gpu_layers} has no effect"
    others = f" (nor are {len(refused) - 1} more GPUs)" if len(refused) > 1 else ""
    return f"{refused[0].reason}{others}"


def _where(situation: Situation, chosen: Placement) -> str:
    hardware, tuned = situation.hardware, situation.tuned
    count = rules.threads(hardware.cpu, situation.settings)
    if tuned is not None and situation.settings.threads is None:
        count = tuned.choices.threads or count
    threads = counted(count, "CPU thread")
    parts = [f"{accelerator.device} ({accelerator.name})" for accelerator in chosen.accelerators]
    if not chosen.is_whole:
        parts.append(f"{threads} ({rules.instruction_set(hardware.cpu)})")
    return listed(parts)


def _memory_clause(model: ModelInfo, chosen: Placement) -> str:
    """What lies where, and whether it fits."""
    ram, *gpus = chosen.memory
    lacking = missing_bytes(chosen, margin=False)
    if not gpus:
        return f"{human_bytes(ram.weights)} of weights{_pool(chosen, [ram])} {_fit([ram], lacking, 'free RAM')}"
    weights = human_bytes(sum(entry.weights for entry in gpus))
    unified = chosen.accelerators[0].unified
    fit = _fit(gpus, lacking, "the RAM that the GPU may use" if unified else "free GPU memory")
    if chosen.is_whole:
        clause = f"all {chosen.total_layers} layers ({weights}){_pool(chosen, gpus)} {fit}"
        # The host's part is small here, so it is mentioned only where it is the trouble.
        return f"{clause}, but {_ram_fit(chosen, lacking)}" if "ram" in lacking else clause
    others = chosen.total_layers - chosen.gpu_layers
    if chosen.experts_in_ram and not others:
        return _experts_clause(chosen, lacking)
    on_gpu = f"{chosen.gpu_layers} of {chosen.total_layers} layers ({weights}){_pool(chosen, gpus)}"
    with_experts = "embeddings and all experts included" if chosen.experts_in_ram else "embeddings included"
    on_cpu = f"the other {others} ({human_bytes(ram.weights)}, {with_experts})"
    if unified:
        return f"{on_gpu} {fit}, {on_cpu} run on the CPU, and {_ram_fit(chosen, lacking)}"
    return f"{on_gpu} {fit}, and {on_cpu} {_fit([ram], lacking, 'free RAM')}"


def _experts_clause(chosen: Placement, lacking: dict[str, int]) -> str:
    """For a mixture of experts whose layers are all on GPUs, but for some experts."""
    ram, *gpus = chosen.memory
    weights = human_bytes(sum(entry.weights for entry in gpus))
    everywhere = chosen.experts_in_ram == chosen.total_layers - 1
    which = "the experts" if everywhere else f"the experts of {chosen.experts_in_ram}"
    on_gpu = f"all {chosen.total_layers} layers but {which} ({weights}){_pool(chosen, gpus)}"
    on_cpu = f"those ({human_bytes(ram.weights)}, embeddings included), of which a token uses a few,"
    return f"{on_gpu} {_fit(gpus, lacking, 'free GPU memory')}, and {on_cpu} {_fit([ram], lacking, 'free RAM')}"


def _pool(chosen: Placement, entries: Sequence[DeviceMemory]) -> str:
    """The part of the pool that lies on the devices of `entries`; nothing for a model that keeps no cache."""
    cache = sum(entry.kv_cache for entry in entries)
    if not cache:
        return ""
    part = "their part of " if chosen.is_partial else ""
    if chosen.demand.layout == "split":
        streams, each = chosen.demand.parallel, human_tokens(chosen.demand.attended_cells)
        at_first = f", {rules.FIRST_STREAMS} at first" if streams > rules.FIRST_STREAMS else ""
        return f" and {streams} streams of {each} tokens ({human_bytes(cache)}{at_first})"
    return f" and {part}a {human_tokens(chosen.demand.cells)}-token pool ({human_bytes(cache)})"


def _fit(entries: Sequence[DeviceMemory], lacking: dict[str, int], of_what: str) -> str:
    """ "fit in 22.1 GiB of free RAM", or by how much they do not."""
    needed = sum(entry.total for entry in entries)
    known = [entry.available for entry in entries if entry.available is not None]
    if len(known) < len(entries):
        return f"need {human_bytes(needed)}, and how much memory is free is not known"
    missing = sum(lacking.get(entry.device, 0) for entry in entries)
    if missing:
        return f"need {human_bytes(needed)}, {human_bytes(missing)} more than {human_bytes(sum(known))} of {of_what}"
    return f"fit in {human_bytes(sum(known))} of {of_what}"


def _ram_fit(chosen: Placement, lacking: dict[str, int]) -> str:
    """How the RAM suffices for everything that lies in it, a unified GPU's share included."""
    ram, *gpus = chosen.memory
    needed = ram.total + sum(entry.total for entry, gpu in zip(gpus, chosen.accelerators, strict=True) if gpu.unified)
    free = human_bytes(ram.available or 0)
    if "ram" in lacking:
        return f"{human_bytes(needed)} of RAM are needed in all, {human_bytes(lacking['ram'])} more than {free} free"
    return f"{human_bytes(needed)} of RAM are needed in all, of {free} free"


def _deviations(situation: Situation, chosen: Placement) -> list[str]:
    """A clause for each number that is not what was asked for or aimed at."""
    hardware, model, settings = situation.hardware, situation.model, situation.settings
    measured = situation.tuned is not None and situation.tuned.choices.kv_type == chosen.demand.kv_type
    clauses = []
    demand = chosen.demand
    wanted = rules.context_limit(model, settings)
    if settings.context and settings.context > model.context_length:
        limit, asked = human_tokens(model.context_length), human_tokens(settings.context)
        clauses.append(f"the context is the {limit} tokens the model was made for, not the {asked} asked for")
    if demand.context < wanted:
        cause = "leave more layers to the GPU" if chosen.is_partial else "save memory"
        shorter, longer = human_tokens(demand.context), human_tokens(wanted)
        clauses.append(f"the context is {shorter} instead of {longer} tokens to {cause}")
    if settings.kv_type and demand.kv_type != settings.kv_type:
        clauses.append(
            f"the KV cache is f16, because this model's heads do not divide into blocks of {settings.kv_type}"
        )
    if settings.kv_type is None and demand.kv_type != "f16" and not measured:
        clauses.append(f"the KV cache is {demand.kv_type}, because f16 does not fit")
    if settings.threads and settings.threads > hardware.cpu.usable_cpus:
        usable = counted(hardware.cpu.usable_cpus, "CPU")
        clauses.append(f"{settings.threads} threads, as asked, are more than the {usable} this process may use")
    return clauses
