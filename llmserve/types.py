"""Frozen data that crosses the borders between packages.

Every type here is a stdlib dataclass of plain values, so it has a JSON form: `to_json` and `from_json` turn any of
them into text and back (`llmserve probe --json` prints a `HardwareInfo`, `llmserve plan --hardware FILE` reads one,
and a worker receives its `EnginePlan` this way). Sizes are bytes, times are seconds, and a fact that is not known is
None: nothing here is ever invented.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmserve.choices import Device, Engine, KvLayout, KvType, LoadShape, ModelFormat, ModelKind, WaitPolicy
from llmserve.installed import AdapterFile, InstalledModel
from llmserve.json_text import InvalidJson, from_json, to_json

# What other modules define is to be had from here too; a command that has to start quickly takes it from there.
__all__ = [
    "AdapterFile",
    "CpuInfo",
    "Device",
    "DeviceMemory",
    "Engine",
    "EngineInfo",
    "EnginePlan",
    "GpuInfo",
    "HardwareInfo",
    "InstalledModel",
    "InvalidJson",
    "KvLayout",
    "KvType",
    "LayerInfo",
    "LoadShape",
    "MemoryInfo",
    "ModelFormat",
    "ModelInfo",
    "ModelKind",
    "ParserNames",
    "ProbeNote",
    "Refusal",
    "VllmOptions",
    "WaitPolicy",
    "from_json",
    "to_json",
]

# --- what the machine is -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """The processor as this process may use it.

    `usable_cpus` is what affinity *and* the cgroup quota leave, at least 1; `quota` is the cgroup's limit in CPUs
    (None: no limit). `features` are lower-case instruction-set names as Linux spells them, limited to those that
    change a plan: avx, avx2, fma, f16c, avx512f, avx512_vnni, avx512_bf16, avx_vnni, amx_int8, amx_bf16, neon, sve.
    """

    architecture: str
    model: str | None
    physical_cores: int | None
    logical_cpus: int | None
    usable_cpus: int
    quota: float | None
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """RAM in bytes. `total` and `available` already respect the cgroup's limit, which is `limit` (None: no limit)."""

    total: int | None
    available: int | None
    limit: int | None


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """One GPU (or MIG slice). `device` is the runtime that drives it best: cuda, rocm, metal or vulkan.

    `runtime_version` is the CUDA or ROCm version the driver supports. `unified_memory` means the GPU shares the RAM,
    so `total_memory` and `free_memory` are not to be added to it.
    """

    device: Device
    index: int
    name: str
    uuid: str | None
    compute_capability: tuple[int, int] | None
    architecture: str | None
    total_memory: int | None
    free_memory: int | None
    driver_version: str | None
    runtime_version: str | None
    unified_memory: bool


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine as installed here: the devices its build can use, or why it is not usable (`devices` empty).

    `instruction_sets` are those that its code for processors was compiled for, where it is known.
    """

    engine: Engine
    version: str | None
    devices: tuple[Device, ...]
    detail: str
    instruction_sets: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        return bool(self.devices)


@dataclass(frozen=True, slots=True)
class ProbeNote:
    """What one probe found, in a sentence: `nvml`: "none, because libnvidia-ml.so.1 is not installed"."""

    probe: str
    finding: str


@dataclass(frozen=True, slots=True)
class HardwareInfo:
    """Everything the plan may depend on. `vulkan` is None where presence could not be determined."""

    system: str
    cpu: CpuInfo
    memory: MemoryInfo
    gpus: tuple[GpuInfo, ...]
    vulkan: bool | None
    engines: tuple[EngineInfo, ...]
    notes: tuple[ProbeNote, ...]


# --- what the model is ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One transformer block: its weights in bytes and the shape of its KV cache entry.

    A token costs `kv_heads * (key_length + value_length)` elements in this layer. `sliding_window` bounds the number
    of tokens kept (None: all of them). Layers without attention (recurrent) have `kv_heads == 0` and a fixed
    `state_bytes` per sequence. `expert_bytes` is the part of the weights of which a token uses a few experts only.
    """

    weight_bytes: int
    kv_heads: int
    key_length: int
    value_length: int
    sliding_window: int | None
    state_bytes: int = 0
    expert_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ParserNames:
    """vLLM's parsers of tool calls and of reasoning as a catalog names them; None where it leaves the choice."""

    tool: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What an inspector read from a model's files, without loading them.

    `input_bytes` are the token embeddings and other tensors that stay in RAM when layers are offloaded;
    `output_bytes` the output head and final norm, which count as one more offloadable layer. `kind` is "generate" or
    "embed". `quantization` is the file's own name for its main tensor type ("Q4_1", "BF16").
    `parsers` are what the catalog states beside the files.
    """

    format: ModelFormat
    architecture: str
    kind: ModelKind
    name: str | None
    parameters: int
    quantization: str
    size_bytes: int
    context_length: int
    embedding_length: int
    feed_forward_length: int
    heads: int
    vocabulary: int
    layers: tuple[LayerInfo, ...]
    input_bytes: int
    output_bytes: int
    chat_template: str | None
    license: str | None
    tensor_types: tuple[tuple[str, int], ...]
    parsers: ParserNames | None = None


# --- what was decided ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Estimated bytes on one device ("ram", "cuda:0", ...), and what was free there when the plan was made.

    `saved_prefixes` is the most that prefixes may take which are kept in RAM after they left the KV cache. `correction`
    is what earlier loads took beyond the estimate; negative: less.
    """

    device: str
    weights: int
    kv_cache: int
    compute: int
    overhead: int
    available: int | None
    saved_prefixes: int = 0
    correction: int = 0

    @property
    def total(self) -> int:
        parts = (self.weights, self.kv_cache, self.compute, self.overhead, self.saved_prefixes, self.correction)
        return sum(parts)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An option that was not taken, and why, in one sentence."""

    option: str
    reason: str


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """What a plan for vLLM decides beside what all plans do.

    `dtype` is vLLM's name of the type it computes in ("auto": the one the model is stored in). `kv_cache_bytes` is the
    pool on each device. `eager` starts it without compiling the model: sooner ready, and slower then. `tool_parser`
    and `reasoning_parser` are vLLM's names of what reads calls and thoughts out of the model's text; None: nothing.
    """

    dtype: str
    kv_cache_bytes: int
    eager: bool
    tool_parser: str | None = None
    reasoning_parser: str | None = None


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """How to run one model here; nothing in it is undecided.

    `context` is the length in tokens one sequence may reach; `kv_cells` the size of the pool that all `parallel`
    sequences share or, where `kv_layout` is "split", of their streams together: the first `first_streams` of them are
    opened at the start, and all once more sequences want to run at once. `saved_tokens` is how many tokens of
    prefixes may be kept in RAM after they left the KV cache. `batch` and `micro_batch` are tokens per step and per
    graph. `devices` lists what computes ("cpu", or "cuda:0", ...); `fits` is False when the estimate exceeds what is
    available (advice, not a gate). `gpu_split` is how many of the `gpu_layers` llama.cpp puts on each GPU of `devices`,
    in their order; the first `experts_in_ram` layers of the model leave their experts to the CPU. `spare_rows` is how
    many rows of logits a step may give beyond one for each running sequence: for drafts that are checked, and prompts
    that are scored. `prefix_disk_bytes` is how much of the disk the prefixes of all models may take that are kept from
    run to run. `speculation`: answers are drafted ahead from their own text, and drafts checked where that pays. `kind`
    is the model's. `output_format` names the form in which it writes thoughts and tool calls;
    "template": the one that its chat template shows.
    """

    engine: Engine
    devices: tuple[str, ...]
    gpu_layers: int
    total_layers: int
    context: int
    parallel: int
    kv_cells: int
    kv_type: KvType
    threads: int
    wait_policy: WaitPolicy
    batch: int
    micro_batch: int
    flash_attention: bool
    memory: tuple[DeviceMemory, ...]
    fits: bool
    reason: str
    refused: tuple[Refusal, ...]
    gpu_split: tuple[int, ...] = ()
    kv_layout: KvLayout = "unified"
    saved_tokens: int = 0
    kind: ModelKind = "generate"
    output_format: str = "template"
    spare_rows: int = 32
    vllm: VllmOptions | None = None
    prefix_disk_bytes: int = 0
    experts_in_ram: int = 0
    speculation: bool = True
    first_streams: int = 0
