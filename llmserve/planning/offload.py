"""Where a model's layers go: how many fit each GPU, and what each device then holds.

llama.cpp counts the output layer as the last of `len(model.layers) + 1` layers and offloads from the end, so
`gpu_layers` is the length of a tail of that list; the tail is cut into consecutive runs, one per GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmserve.planning.accelerators import Accelerator, margin_bytes
from llmserve.planning.memory import (
    MIB,
    Demand,
    compute_bytes,
    head_bytes,
    host_compute_bytes,
    layer_kv_bytes,
    logits_bytes,
    weight_bytes,
)
from llmserve.types import DeviceMemory, ModelInfo

# The worker process: interpreter, libraries, vocabulary; and the host side of a GPU runtime.
PROCESS_BYTES = 100 * MIB
GPU_RUNTIME_BYTES = 200 * MIB
# How full to make several GPUs, tried in turn: an even spread is faster and leaves room on each.
_FILL_STEPS = tuple(step / 20 for step in range(2, 21))


@dataclass(frozen=True, slots=True)
class Placement:
    """Layers on devices: `split[i]` layers on `accelerators[i]`, the rest on the CPU, and the bytes that this takes."""

    accelerators: tuple[Accelerator, ...]
    split: tuple[int, ...]
    total_layers: int
    demand: Demand
    memory: tuple[DeviceMemory, ...]

    @property
    def gpu_layers(self) -> int:
        return sum(self.split)

    @property
    def is_whole(self) -> bool:
        """Every layer is on a GPU."""
        return self.gpu_layers == self.total_layers

    @property
    def is_partial(self) -> bool:
        """Some layers are on GPUs and some on the CPU."""
        return 0 < self.gpu_layers < self.total_layers


def total_layers(model: ModelInfo) -> int:
    """All layers that can be offloaded: the blocks and the output layer."""
    return len(model.layers) + 1


def place(
    model: ModelInfo, demand: Demand, accelerators: Sequence[Accelerator], layers: int, ram: int | None
) -> Placement | None:
    """The last `layers` layers spread over `accelerators` as evenly as their memory allows; None if they do not fit."""
    costs = _costs(model, demand)[total_layers(model) - layers :]
    capacities = _capacities(model, demand, accelerators, partial=layers < total_layers(model))
    for fill in _FILL_STEPS if len(accelerators) > 1 else (1.0,):
        split = _fill(costs, [int(capacity * fill) for capacity in capacities])
        if sum(split) == layers:
            return placement(model, demand, accelerators, split, ram)
    return None


def place_most(model: ModelInfo, demand: Demand, accelerators: Sequence[Accelerator], ram: int | None) -> Placement:
    """As many layers on `accelerators` as fit, which may be none."""
    split = _fill(_costs(model, demand), _capacities(model, demand, accelerators, partial=True))
    return placement(model, demand, accelerators, split, ram)


def place_regardless(
    model: ModelInfo, demand: Demand, accelerators: Sequence[Accelerator], layers: int, ram: int | None
) -> Placement:
    """Exactly `layers` layers on `accelerators`, in proportion to their memory, whether they fit or not."""
    weights = [max(accelerator.budget, MIB) for accelerator in accelerators]
    bounds = [layers * sum(weights[: end + 1]) // sum(weights) for end in range(len(weights))]
    split = [bound - start for start, bound in zip([0, *bounds], bounds, strict=False)]
    return placement(model, demand, accelerators, split, ram)


def placement(
    model: ModelInfo, demand: Demand, accelerators: Sequence[Accelerator], split: Sequence[int], ram: int | None
) -> Placement:
    """The bytes on each device for a given split; GPUs that get no layer are left out. `ram` is what is free of it."""
    used = [(accelerator, count) for accelerator, count in zip(accelerators, split, strict=True) if count]
    start = total_layers(model) - sum(count for _, count in used)
    on_host = start
    kv = (*layer_kv_bytes(model, demand.kv_type, demand.cells, demand.parallel, demand.micro_batch), 0)
    weights = _layer_weights(model)
    memory = []
    for accelerator, count in used:
        end = start + count
        memory.append(
            DeviceMemory(
                device=accelerator.device,
                weights=sum(weights[start:end]),
                kv_cache=sum(kv[start:end]),
                compute=_gpu_compute(model, demand, accelerator, partial=on_host > 0),
                overhead=accelerator.overhead,
                available=accelerator.free,
            )
        )
        start = end
    host = DeviceMemory(
        device="ram",
        weights=weight_bytes(model) if not used else model.input_bytes + sum(weights[:on_host]),
        kv_cache=sum(kv[:on_host]),
        compute=_host_compute(model, demand) if on_host else host_compute_bytes(model, demand),
        overhead=PROCESS_BYTES + (GPU_RUNTIME_BYTES if used else 0),
        available=ram,
    )
    return Placement(
        accelerators=tuple(accelerator for accelerator, _ in used),
        split=tuple(count for _, count in used),
        total_layers=total_layers(model),
        demand=demand,
        memory=(host, *memory),
    )


def missing_bytes(placed: Placement, *, margin: bool) -> dict[str, int]:
    """How much each device lacks for `placed`, by device; empty when everything fits.

    RAM also carries what unified GPUs hold. With `margin`, a reserve is left free. A device whose free memory is not
    known lacks nothing.
    """
    shared = {accelerator.device for accelerator in placed.accelerators if accelerator.unified}
    in_ram = sum(entry.total for entry in placed.memory if entry.device in shared)
    missing = {}
    for entry in placed.memory:
        if entry.available is None:
            continue
        is_ram = entry.device == "ram"
        reserve = margin_bytes(entry.available, least=(128 if is_ram else 256) * MIB) if margin else 0
        needed = entry.total + (in_ram if is_ram else 0)
        if needed > entry.available - reserve:
            missing[entry.device] = needed - (entry.available - reserve)
    return missing


def _layer_weights(model: ModelInfo) -> list[int]:
    return [*(layer.weight_bytes for layer in model.layers), head_bytes(model)]


def _costs(model: ModelInfo, demand: Demand) -> list[int]:
    """Bytes each layer takes on the GPU that holds it: weights and KV cache."""
    kv = (*layer_kv_bytes(model, demand.kv_type, demand.cells, demand.parallel, demand.micro_batch), 0)
    return [weights + cache for weights, cache in zip(_layer_weights(model), kv, strict=True)]


def _capacities(model: ModelInfo, demand: Demand, accelerators: Sequence[Accelerator], *, partial: bool) -> list[int]:
    return [
        accelerator.budget - accelerator.overhead - _gpu_compute(model, demand, accelerator, partial=partial)
        for accelerator in accelerators
    ]


def _fill(costs: Sequence[int], capacities: Sequence[int]) -> list[int]:
    """Greedy from the last layer and the last GPU backwards: how many consecutive layers each GPU takes."""
    split = [0] * len(capacities)
    remaining = len(costs)
    for index in range(len(capacities) - 1, -1, -1):
        room = capacities[index]
        while remaining and costs[remaining - 1] <= room:
            remaining -= 1
            room -= costs[remaining]
            split[index] += 1
    return split


def _gpu_compute(model: ModelInfo, demand: Demand, accelerator: Accelerator, *, partial: bool) -> int:
    compute = compute_bytes(model, demand.micro_batch, demand.outputs, demand.attended_cells)
    if partial and not accelerator.unified:
        # For long prompts llama.cpp copies the weights of a layer left on the CPU to the GPU and computes it there.
        compute += max((layer.weight_bytes for layer in model.layers), default=0)
    return compute


def _host_compute(model: ModelInfo, demand: Demand) -> int:
    return compute_bytes(model, demand.micro_batch, demand.outputs, demand.attended_cells) + logits_bytes(
        model, demand.outputs
    )
