"""Mixtures of experts: what stays in RAM, and what the plan says of it."""

from __future__ import annotations

import pytest

from llmserve.planning.memory import GIB
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from tests.planning.machines import machine, with_free_gpu_memory, with_ram
from tests.planning.models import LLAMA31_70B, MIXTRAL_8X7B, QWEN3_30B_A3B


def test_a_mixture_that_fits_keeps_its_experts_on_the_gpu() -> None:
    decided = plan(machine("h100_80gb"), QWEN3_30B_A3B, Settings())
    assert (decided.devices, decided.experts_in_ram) == (("cuda:0",), 0)


def test_as_few_layers_as_must_leave_their_experts_to_the_cpu() -> None:
    hardware = machine("rtx_3060_12gb")
    decided = plan(hardware, QWEN3_30B_A3B, Settings())
    assert decided.devices == ("cuda:0", "cpu")
    assert decided.gpu_layers == decided.total_layers == 49
    assert 0 < decided.experts_in_ram < 48
    assert decided.context == 16384, "experts leave the GPU before the context shrinks"
    ram, gpu = decided.memory
    assert ram.weights == QWEN3_30B_A3B.input_bytes + sum(
        layer.expert_bytes for layer in QWEN3_30B_A3B.layers[: decided.experts_in_ram]
    )
    assert gpu.available is not None
    assert gpu.available - gpu.total < 2 * QWEN3_30B_A3B.layers[0].expert_bytes + GIB
    assert f"all 49 layers but the experts of {decided.experts_in_ram}" in decided.reason


def test_more_gpu_memory_takes_more_experts() -> None:
    hardware = machine("rtx_3060_12gb")
    left = [
        plan(with_free_gpu_memory(hardware, size * GIB), QWEN3_30B_A3B, Settings()).experts_in_ram
        for size in range(6, 24, 2)
    ]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0


def test_where_not_even_the_rest_fits_layers_stay_and_take_no_expert_along() -> None:
    hardware = with_free_gpu_memory(machine("rtx_3060_12gb"), 2 * GIB)
    decided = plan(hardware, MIXTRAL_8X7B, Settings())
    assert 0 < decided.gpu_layers < decided.total_layers
    assert decided.experts_in_ram == len(MIXTRAL_8X7B.layers)
    assert "all experts included" in decided.reason


def test_ram_must_hold_the_experts() -> None:
    decided = plan(with_ram(machine("rtx_3060_12gb"), 4 * GIB), QWEN3_30B_A3B, Settings())
    assert not decided.fits
    assert "more than 4.0 GiB of free RAM" in decided.reason


@pytest.mark.parametrize("name", ["apple_m2_16gb", "dgx_spark_128gb", "strix_halo_128gb"])
def test_a_gpu_that_shares_the_ram_gains_nothing_by_it(name: str) -> None:
    assert plan(machine(name), MIXTRAL_8X7B, Settings()).experts_in_ram == 0


def test_a_dense_model_has_no_experts_to_leave() -> None:
    assert plan(machine("rtx_3060_12gb"), LLAMA31_70B, Settings()).experts_in_ram == 0


def test_all_layers_asked_for_without_room_leave_their_experts() -> None:
    decided = plan(machine("rtx_3060_12gb"), QWEN3_30B_A3B, Settings(gpu_layers=49))
    assert decided.gpu_layers == 49
    assert decided.experts_in_ram > 0
    assert decided.fits
