"""Which of a model's variants suits a machine: pure, and explained.

Quality falls with the bits per weight, in the order of `_BITS`. Speed: on a GPU reading the weights is what takes time,
and a GPU reads fast, so the best quality that fits there wins, up to 8 bits, beyond which nobody sees a difference. A
processor reads slowly, so about 4 bits win; among those, a quantization whose kernels llama.cpp repacks for this
processor (`ggml_repack_get_optimal_repack_type` in `ggml/src/ggml-cpu/repack.cpp`): its prompts run about 3 times as
fast as those of one that is not repacked (measured: Q4_0 against Q4_1 with AVX-512).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from llmserve.planning.formatting import human_bytes
from llmserve.planning.vllm_cpu import pays_on
from llmserve.types import CpuInfo, Engine, GpuInfo, HardwareInfo, ModelFormat, Refusal

# Bits per weight of whole files, mixtures of tensor types as llama.cpp's recipes make them; best quality first.
_BITS: Mapping[str, float] = MappingProxyType(
    {
        "F32": 32.0,
        "BF16": 16.0,
        "F16": 16.0,
        "Q8_0": 8.5,
        "Q6_K": 6.6,
        "Q5_K_M": 5.7,
        "Q5_K_S": 5.5,
        "Q5_1": 6.0,
        "Q5_0": 5.5,
        "Q4_K_M": 4.85,
        "Q4_K_S": 4.6,
        "Q4_1": 5.0,
        "IQ4_NL": 4.5,
        "IQ4_XS": 4.3,
        "MXFP4": 4.4,
        "Q4_0": 4.6,
        "Q3_K_L": 4.3,
        "Q3_K_M": 3.9,
        "Q3_K_S": 3.5,
        "Q2_K": 3.0,
    }
)
_ORDER = tuple(_BITS)
_MOST_BITS_ON_GPU = 8.5
_MOST_BITS_ON_CPU = 5.2
# Of the memory that is free: the rest is for the KV cache, buffers and everybody else.
_SHARE_FOR_WEIGHTS = 0.8

# Tensor types with repacked kernels, by the instruction set that makes llama.cpp choose them.
_REPACKED: tuple[tuple[str, frozenset[str]], ...] = (
    ("avx2", frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})),
    ("avx512f", frozenset({"Q2_K"})),
    # Strictly with dot products, which every 64-bit ARM processor of the last years has.
    ("neon", frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"})),
)


@dataclass(frozen=True, slots=True)
class VariantOption:
    """A variant to choose from; `parameters` estimates the size where it is not known. `label` names it to the user."""

    label: str
    format: ModelFormat
    quantization: str
    size_bytes: int | None
    parameters: int | None

    @property
    def estimate_bytes(self) -> int | None:
        """The size of its weights: as stated, or else from parameters and bits per weight."""
        if self.size_bytes is not None:
            return self.size_bytes
        bits = _BITS.get(self.quantization)
        return None if bits is None or self.parameters is None else int(self.parameters * bits / 8)


@dataclass(frozen=True, slots=True)
class VariantChoice:
    """The `index` and label of the option that was taken, why, and why not each other. `fits`: as `EnginePlan.fits`."""

    index: int
    taken: str
    reason: str
    fits: bool
    refused: tuple[Refusal, ...]


def choose_variant(hardware: HardwareInfo, options: Sequence[VariantOption]) -> VariantChoice:
    """The option that suits the machine best, of at least one.

    Where none is usable, because no engine for its format is installed or memory is too small, the smallest is taken:
    it may be meant for another machine, and `fits` says so.
    """
    machine = _Machine.of(hardware)
    problems = [_problem(machine, option) for option in options]
    usable = [index for index, problem in enumerate(problems) if problem is None]
    if usable:
        best = max(usable, key=lambda index: machine.merit(options[index]))
        reason = machine.praise(options[best])
    else:
        best = min(
            range(len(options)), key=lambda index: (_is_without_engine(machine, options[index]), _size(options[index]))
        )
        reason = f"the smallest there is, although {problems[best]}"
    refused = tuple(
        Refusal(option.label, problem or machine.comparison(option, options[best]))
        for index, (option, problem) in enumerate(zip(options, problems, strict=True))
        if index != best
    )
    return VariantChoice(best, options[best].label, reason, bool(usable), refused)


def is_repacked(cpu: CpuInfo, quantization: str) -> bool:
    """Whether llmserve's CPU engine has repacked kernels for most tensors of such a file on this processor."""
    main_type = quantization if quantization in {"Q4_0", "Q8_0", "IQ4_NL", "MXFP4"} else quantization[:4]
    return any(feature in cpu.features and main_type in types for feature, types in _REPACKED)


@dataclass(frozen=True, slots=True)
class _Machine:
    """What of the hardware the choice depends on. `memory` in bytes, None where it is not known."""

    cpu: CpuInfo
    gpu: GpuInfo | None
    gpu_memory: int | None
    memory: int | None
    devices: Mapping[Engine, tuple[str, ...]]
    has_cuda: bool

    @classmethod
    def of(cls, hardware: HardwareInfo) -> _Machine:
        devices = {info.engine: info.devices for info in hardware.engines}
        usable = [
            gpu for gpu in hardware.gpus if any(gpu.device in names for names in devices.values()) and gpu.free_memory
        ]
        separate = sum(gpu.free_memory or 0 for gpu in usable if not gpu.unified_memory)
        shared = [gpu.free_memory or 0 for gpu in usable if gpu.unified_memory]
        return cls(
            cpu=hardware.cpu,
            gpu=max(usable, key=lambda gpu: gpu.free_memory or 0, default=None),
            gpu_memory=separate or max(shared, default=0) or None,
            memory=None if hardware.memory.available is None else hardware.memory.available + separate,
            devices=devices,
            has_cuda=any(gpu.device == "cuda" for gpu in hardware.gpus),
        )

    @property
    def vllm_is_for_cpus(self) -> bool:
        return "cpu" in self.devices.get("vllm", ())

    def on_gpu(self, option: VariantOption) -> bool:
        """Whether all of it fits into the memory of GPUs that its engine drives."""
        if option.format == "safetensors" and self.vllm_is_for_cpus:
            return False
        return self.gpu_memory is not None and _size(option) <= self.gpu_memory * _SHARE_FOR_WEIGHTS

    def merit(self, option: VariantOption) -> tuple[bool, bool, bool, bool, float]:
        """What is compared, in this order, greater being better."""
        on_gpu = self.on_gpu(option)
        most_bits = _MOST_BITS_ON_GPU if on_gpu else _MOST_BITS_ON_CPU
        bits = _BITS.get(option.quantization, _MOST_BITS_ON_GPU)
        within = bits <= most_bits
        # vLLM reads no quantized file here, so its 16 bits are not held against it.
        batches = option.format == "safetensors" and on_gpu
        repacked = not on_gpu and is_repacked(self.cpu, option.quantization)
        # Beyond the bits that pay, fewer are better.
        return on_gpu, batches, within, repacked, -_rank(option) if within else -bits - len(_ORDER)

    def praise(self, option: VariantOption) -> str:
        size = option.estimate_bytes
        about = "" if option.size_bytes is not None else "about "
        fact = "its size is not known" if size is None else f"{about}{human_bytes(size)}"
        if self.on_gpu(option) and self.gpu is not None:
            return f"{fact} of weights fit into the {human_bytes(self.gpu_memory or 0)} that are free on the GPU"
        if is_repacked(self.cpu, option.quantization):
            return f"{fact}, and {option.quantization} has kernels that are repacked for this processor"
        return f"{fact}, the best there is for this processor"

    def comparison(self, option: VariantOption, best: VariantOption) -> str:
        """Why an option that would run was not taken."""
        ours, theirs = self.merit(option), self.merit(best)
        if theirs[0] and not ours[0]:
            return "does not fit into the GPU's memory as a whole"
        if theirs[1] and not ours[1]:
            return "vLLM serves many requests at once better"
        if theirs[2] and not ours[2]:
            return "larger and slower than what the gain in quality is worth here"
        if theirs[3] and not ours[3]:
            return "has no kernels that are repacked for this processor, so prompts take about 3 times as long"
        return f"lower quality than {best.quantization}" if _rank(option) > _rank(best) else "no better here"


def _problem(machine: _Machine, option: VariantOption) -> str | None:
    """Why the option cannot run here at all."""
    if _is_without_engine(machine, option):
        mend = ", which `llmserve engines install vllm` would change" if _wants_vllm(machine, option) else ""
        return f"no engine for {option.format} is installed that could use this machine{mend}"
    on_gpu = option.format == "safetensors" and not machine.vllm_is_for_cpus
    available = machine.gpu_memory if on_gpu else machine.memory
    size = option.estimate_bytes
    if size is not None and available is not None and size > available * _SHARE_FOR_WEIGHTS:
        return f"its {human_bytes(size)} of weights are too much for the {human_bytes(available)} that are free"
    return None


def _is_without_engine(machine: _Machine, option: VariantOption) -> bool:
    if option.format == "gguf":
        return not machine.devices.get("llama.cpp")
    if machine.vllm_is_for_cpus:
        # Without 16-bit instructions it would run, and every GGUF variant would run faster.
        return not pays_on(machine.cpu)
    return not machine.devices.get("vllm") or machine.gpu_memory is None


def _wants_vllm(machine: _Machine, option: VariantOption) -> bool:
    """Whether a GPU lies idle for which there are builds of vLLM."""
    return option.format == "safetensors" and machine.has_cuda and not machine.devices.get("vllm")


def _size(option: VariantOption) -> int:
    return option.estimate_bytes or 0


def _rank(option: VariantOption) -> int:
    return _ORDER.index(option.quantization) if option.quantization in _ORDER else len(_ORDER)
