"""Where a model's layers go: how many fit each GPU, and what each device then holds.

llama.cpp counts the output layer as the last of `len(model.layers) + 1` layers and offloads from the end, so
`gpu_layers` is the length of a tail of that list; the tail is cut into consecutive runs, one per GPU.

Of a mixture of experts the bulk of a layer is experts, of which a token uses a few: they lose least by staying in RAM,
so the first `experts_in_ram` layers leave theirs to the CPU, wherever the rest of the layer is.
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
class Host:
    """The RAM: what is `free` of it (None: not known), and what earlier loads took beyond their estimates."""

    free: int | None
    correction: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Layers on devices: `split[i]` layers on `accelerators[i]`, the rest on the CPU, and the bytes that this takes.

    The experts of the first `experts_in_ram` layers are in RAM.
    """

    accelerators: tuple[Accelerator, ...]
    split: tuple[int, ...]
    total_layers: int
    demand: Demand
    memory: tuple[DeviceMemory, ...]
    experts_in_ram: int = 0

    @property
    def gpu_layers(self) -> int:
        return sum(self.split)

    @property
    def is_whole(self) -> bool:
        """Every layer is on a GPU, with all that belongs to it."""
        return self.gpu_layers == self.total_layers and not self.experts_in_ram

    @property
    def is_partial(self) -> bool:
        """Some layers are on GPUs and some on the CPU."""
        return 0 < self.gpu_layers < self.total_layers


def total_layers(model: ModelInfo) -> int:
    """All layers that can be offloaded: the blocks and the output layer."""
    return len(model.layers) + 1


def experts_bytes(model: ModelInfo) -> int:
    """Bytes of all experts; 0 for a dense model."""
    return sum(layer.expert_bytes for layer in model.layers)


def place(
    model: ModelInfo,
    demand: Demand,
    accelerators: Sequence[Accelerator],
    layers: int,
    host: Host,
    experts_in_ram: int = 0,
) -> Placement | None:
    """The last `layers` layers spread over `accelerators` as evenly as their memory allows; None if they do not fit."""
    on_host = total_layers(model) - layers
    costs = _costs(model, demand, experts_in_ram)[on_host:]
    copied = _copied_bytes(model, on_host, experts_in_ram)
    capacities = [_capacity(model, demand, accelerator, copied) for accelerator in accelerators]
    for fill in _FILL_STEPS if len(accelerators) > 1 else (1.0,):
        split = _fill(costs, [int(capacity * fill) for capacity in capacities])
        if sum(split) == layers:
            return placement(model, demand, accelerators, split, host, experts_in_ram)
    return None


def place_most(
    model: ModelInfo,
    demand: Demand,
    accelerators: Sequence[Accelerator],
    host: Host,
    experts_in_ram: int = 0,
) -> Placement:
    """As many layers on `accelerators` as fit, which may be none."""
    copied = _copied_bytes(model, total_layers(model), experts_in_ram)
    capacities = [_capacity(model, demand, accelerator, copied) for accelerator in accelerators]
    split = _fill(_costs(model, demand, experts_in_ram), capacities)
    return placement(model, demand, accelerators, split, host, experts_in_ram)


def place_regardless(
    model: ModelInfo, demand: Demand, accelerators: Sequence[Accelerator], layers: int, host: Host
) -> Placement:
    """Exactly `layers` layers on `accelerators`, in proportion to their memory, whether they fit or not."""
    weights = [max(accelerator.budget, MIB) for accelerator in accelerators]
    bounds = [layers * sum(weights[: end + 1]) // sum(weights) for end in range(len(weights))]
    split = [bound - start for start, bound in zip([0, *bounds], bounds, strict=False)]
    return placement(model, demand, accelerators, split, host)


def placement(
    model: ModelInfo,
    demand: Demand,
    accelerators: Sequence[Accelerator],
    split: Sequence[int],
    host: Host,
    experts_in_ram: int = 0,
) -> Placement:
    """The bytes on each device for a given split; GPUs that get no layer are left out."""
    used = [(accelerator, count) for accelerator, count in zip(accelerators, split, strict=True) if count]
    start = on_host = total_layers(model) - sum(count for _, count in used)
    # Experts of layers that are on the CPU anyway are nothing to be told apart.
    experts_in_ram = experts_in_ram if used else 0
    copied = _copied_bytes(model, on_host, experts_in_ram)
    kv = (*layer_kv_bytes(model, demand.kv_type, demand.cells, demand.parallel, demand.micro_batch), 0)
    weights = _layer_weights(model, experts_in_ram)
    memory = []
    for accelerator, count in used:
        end = start + count
        memory.append(
            DeviceMemory(
                device=accelerator.device,
                weights=sum(weights[start:end]),
                kv_cache=sum(kv[start:end]),
                compute=_gpu_compute(model, demand, accelerator, copied),
                overhead=accelerator.overhead,
                available=accelerator.free,
                correction=accelerator.correction,
            )
        )
        start = end
    experts = sum(layer.expert_bytes for layer in model.layers[:experts_in_ram])
    in_ram = DeviceMemory(
        device="ram",
        weights=weight_bytes(model) if not used else model.input_bytes + sum(weights[:on_host]) + experts,
        kv_cache=sum(kv[:on_host]),
        compute=_host_compute(model, demand) if on_host or experts_in_ram else host_compute_bytes(model, demand),
        overhead=PROCESS_BYTES + (GPU_RUNTIME_BYTES if used else 0),
        available=host.free,
        correction=host.correction,
    )
    return Placement(
        accelerators=tuple(accelerator for accelerator, _ in used),
        split=tuple(count for _, count in used),
        total_layers=total_layers(model),
        demand=demand,
        memory=(in_ram, *memory),
        experts_in_ram=experts_in_ram,
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


def _layer_weights(model: ModelInfo, experts_in_ram: int) -> list[int]:
    """Bytes of each layer, those of the first ones without their experts."""
    blocks = [
        layer.weight_bytes - (layer.expert_bytes if index < experts_in_ram else 0)
        for index, layer in enumerate(model.layers)
    ]
    return [*blocks, head_bytes(model)]


def _costs(model: ModelInfo, demand: Demand, experts_in_ram: int) -> list[int]:
    """Bytes each layer takes on the GPU that holds it: weights and KV cache."""
    kv = (*layer_kv_bytes(model, demand.kv_type, demand.cells, demand.parallel, demand.micro_batch), 0)
    return [weights + cache for weights, cache in zip(_layer_weights(model, experts_in_ram), kv, strict=True)]


def _copied_bytes(model: ModelInfo, on_host: int, experts_in_ram: int) -> int:
    """The most bytes of weights in RAM that a GPU may need room for at once.

    For long prompts llama.cpp copies what is left on the CPU, a layer or its experts at a time, and computes it there.
    """
    experts = [layer.expert_bytes for layer in model.layers[:experts_in_ram]]
    whole = [layer.weight_bytes for layer in model.layers] if on_host and not any(experts) else []
    return max((*experts, *whole), default=0)


def _capacity(model: ModelInfo, demand: Demand, accelerator: Accelerator, copied: int) -> int:
    """Bytes for layers and their cache."""
    own = accelerator.overhead + accelerator.correction
    return accelerator.budget - own - _gpu_compute(model, demand, accelerator, copied)


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


def _gpu_compute(model: ModelInfo, demand: Demand, accelerator: Accelerator, copied: int) -> int:
    compute = _compute(model, demand)
    # What shares the RAM reads weights where they are.
    return compute if accelerator.unified else compute + copied


def _host_compute(model: ModelInfo, demand: Demand) -> int:
    return _compute(model, demand) + logits_bytes(model, demand.outputs)


def _compute(model: ModelInfo, demand: Demand) -> int:
    return compute_bytes(
        model,
        demand.micro_batch,
        demand.outputs,
        demand.attended_cells,
        flash_attention=demand.flash_attention,
    )
