"""What would change a plan: each sentence holds, and there is none where nothing would."""

from __future__ import annotations

import pytest

from llmserve.planning.advice import what_would_change
from llmserve.planning.memory import GIB
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import HardwareInfo, ModelInfo
from tests.planning.machines import machine, with_free_gpu_memory, with_ram
from tests.planning.models import LLAMA31_8B, LLAMA31_70B, QWEN3_30B_A3B, QWEN3_32B, SMOLLM2_135M


def advice(hardware: HardwareInfo, model: ModelInfo, settings: Settings | None = None) -> tuple[str, ...]:
    settings = settings or Settings()
    return what_would_change(hardware, model, settings, plan(hardware, model, settings))


def test_nothing_would_change_what_is_well() -> None:
    assert advice(machine("h100_80gb"), LLAMA31_8B) == ()
    assert advice(machine("laptop_no_gpu"), SMOLLM2_135M) == ()


def test_how_much_more_takes_all_layers_to_the_gpu() -> None:
    hardware = machine("rtx_3060_12gb")
    (sentence,) = advice(hardware, QWEN3_32B)
    amount = float(sentence.removeprefix("with ").split(" GiB")[0])
    assert sentence == f"with {amount:g} GiB more free memory on cuda:0 all 65 layers would fit"
    free = hardware.gpus[0].free_memory or 0
    enough = plan(with_free_gpu_memory(hardware, free + int((amount + 0.1) * GIB)), QWEN3_32B, Settings())
    less = plan(with_free_gpu_memory(hardware, free + int((amount - 0.2) * GIB)), QWEN3_32B, Settings())
    assert enough.gpu_layers == enough.total_layers > less.gpu_layers


def test_how_much_more_takes_the_experts_there() -> None:
    (sentence,) = advice(machine("rtx_3060_12gb"), QWEN3_30B_A3B)
    assert "all layers and their experts would fit" in sentence


def test_a_build_that_would_use_the_gpu() -> None:
    sentences = advice(machine("rtx_3090_engine_cpu_only"), LLAMA31_8B)
    assert "with a llama.cpp built for CUDA all 33 layers would run on NVIDIA GeForce RTX 3090" in sentences


def test_how_much_ram_is_missing() -> None:
    hardware = machine("laptop_no_gpu")
    sentence = advice(hardware, LLAMA31_70B)[-1]
    amount = float(sentence.removeprefix("with ").split(" GiB")[0])
    assert sentence.endswith("more free RAM it would fit")
    available = hardware.memory.available or 0
    assert plan(with_ram(hardware, available + int((amount + 0.1) * GIB)), LLAMA31_70B, Settings()).fits


@pytest.mark.parametrize("available", [6 * GIB, 7 * GIB])
def test_how_much_ram_a_full_context_takes(available: int) -> None:
    hardware = with_ram(machine("laptop_no_gpu"), available)
    assert plan(hardware, LLAMA31_8B, Settings()).context < 16384
    assert any("the context would be 16k tokens instead of" in sentence for sentence in advice(hardware, LLAMA31_8B))


def test_layers_asked_for_are_not_questioned() -> None:
    assert advice(machine("rtx_4090_24gb"), LLAMA31_8B, Settings(gpu_layers=10)) == ()
