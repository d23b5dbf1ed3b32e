"""Machines and safetensors models of the table of vLLM launches, the models from their published configurations."""

from __future__ import annotations

from dataclasses import replace

from llmserve.planning.memory import GIB
from llmserve.types import HardwareInfo, InstalledModel
from tests.planning.machines import machine, with_engines, with_free_gpu_memory
from tests.planning.models import LLAMA31_8B_BF16, Shape, build


def _cuda(hardware: HardwareInfo) -> HardwareInfo:
    return with_engines(hardware, llama=["cpu"], vllm=["cuda"])


def _several(name: str, count: int) -> HardwareInfo:
    hardware = machine(name)
    gpus = tuple(replace(hardware.gpus[0], index=index) for index in range(count))
    ram = replace(hardware.memory, total=512 * GIB, available=480 * GIB)
    return replace(hardware, gpus=gpus, memory=ram)


def _renamed(name: str, title: str, free_gib: float, total_gib: float) -> HardwareInfo:
    hardware = machine(name)
    gpu = replace(hardware.gpus[0], name=title, total_memory=int(total_gib * GIB), free_memory=int(free_gib * GIB))
    return replace(hardware, gpus=(gpu,))


MACHINES = {
    "RTX 3090": _cuda(_renamed("rtx_3090_half_used", "NVIDIA GeForce RTX 3090", 23.3, 24)),
    "RTX 3090 half used": _cuda(machine("rtx_3090_half_used")),
    "RTX 4090": _cuda(machine("rtx_4090_24gb")),
    "A10": _cuda(_renamed("rtx_3090_half_used", "NVIDIA A10", 22.1, 22.5)),
    "T4": _cuda(machine("t4_16gb")),
    "H100": _cuda(machine("h100_80gb")),
    "2x A100": _cuda(with_free_gpu_memory(_several("a100_80gb_x2", 2), 79 * GIB, 79 * GIB)),
    "4x A100": _cuda(with_free_gpu_memory(_several("a100_80gb_x2", 4), *[79 * GIB] * 4)),
    "8x H100": _cuda(with_free_gpu_memory(_several("h100_80gb", 8), *[79 * GIB] * 8)),
}
MODELS = {
    "0.5B bf16": build(
        "Qwen2.5-0.5B-Instruct",
        "BF16",
        Shape("qwen2", 988_097_824, 494_032_768, 24, 896, 4864, 14, 2, 64, 64, 151936, 32768, head_bits=16, tied=True),
        format="safetensors",
    ),
    "8B bf16": LLAMA31_8B_BF16,
    "8B AWQ": build(
        "Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
        "AWQ",
        Shape("llama", 5_730_000_000, 8_030_261_248, 32, 4096, 14336, 32, 8, 128, 128, 128256, 131072, head_bits=16),
        format="safetensors",
    ),
    "8B FP8": build(
        "Meta-Llama-3.1-8B-Instruct-FP8",
        "FP8",
        Shape("llama", 9_081_000_000, 8_030_261_248, 32, 4096, 14336, 32, 8, 128, 128, 128256, 131072, head_bits=16),
        format="safetensors",
    ),
    "32B bf16": build(
        "Qwen2.5-32B-Instruct",
        "BF16",
        Shape("qwen2", 65_527_000_000, 32_763_876_352, 64, 5120, 27648, 40, 8, 128, 128, 152064, 32768, head_bits=16),
        format="safetensors",
    ),
    "70B bf16": build(
        "Llama-3.1-70B-Instruct",
        "BF16",
        Shape("llama", 141_107_413_000, 70_553_706_496, 80, 8192, 28672, 64, 8, 128, 128, 128256, 131072, head_bits=16),
        format="safetensors",
    ),
    "gpt-oss-20b": build(
        "gpt-oss-20b",
        "MXFP4",
        Shape(
            *("gpt_oss", 13_761_264_768, 20_914_757_184, 24, 2880, 2880, 64, 8, 64, 64, 201088, 131072),
            head_bits=16,
            windows=(128, None),
        ),
        format="safetensors",
    ),
    "DeepSeek-V3": build(
        "DeepSeek-V3",
        "FP8",
        # One latent vector of 512 and 64 rotary elements for each token in each layer, on every GPU.
        Shape("deepseek_v3", 688_586_727_753, 684_531_386_000, 61, 7168, 18432, 128, 1, 576, 0, 129280, 163840),
        format="safetensors",
    ),
}


def installed(name: str) -> InstalledModel:
    """The model of the table as a store would have it."""
    return InstalledModel(
        name="a-model:1b",
        aliases=(),
        format="safetensors",
        quantization=MODELS[name].quantization,
        path="/models/a-model",
        size_bytes=MODELS[name].size_bytes,
        sha256="0" * 64,
        source="file:/models/a-model",
        pulled_at=0.0,
    )
