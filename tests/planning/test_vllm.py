"""Safetensors models: vLLM where its GPUs allow it, a reason where they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmserve.errors import Unavailable
from llmserve.planning.memory import GIB
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import HardwareInfo
from tests.planning.machines import machine, with_engines, with_free_gpu_memory
from tests.planning.models import LLAMA31_8B_BF16, LLAMA31_70B

LLAMA31_70B_BF16 = replace(
    LLAMA31_70B,
    format="safetensors",
    quantization="BF16",
    size_bytes=141_107_413_000,
    layers=tuple(replace(layer, weight_bytes=1_711_308_800) for layer in LLAMA31_70B.layers),
    input_bytes=2_101_346_304,
    output_bytes=2_101_362_688,
)


def several(name: str, count: int) -> HardwareInfo:
    hardware = machine(name)
    gpus = tuple(replace(hardware.gpus[0], index=index) for index in range(count))
    return replace(hardware, gpus=gpus)


@pytest.mark.parametrize("name", ["a100_80gb_x2", "h100_80gb", "rtx_4090_24gb"])
def test_one_large_gpu_holds_an_8b_model(name: str) -> None:
    decided = plan(machine(name), LLAMA31_8B_BF16, Settings())
    assert (decided.engine, decided.devices, decided.fits) == ("vllm", ("cuda:0",), True)
    assert decided.gpu_layers == decided.total_layers == 33
    assert decided.context == 16384
    assert decided.kv_cells >= decided.context
    assert decided.reason.startswith("vLLM on cuda:0 (NVIDIA ")
    refused = {refusal.option: refusal.reason for refusal in decided.refused}
    assert refused["llama.cpp"] == "not taken, because the model is in safetensors format, not a GGUF file"
    assert "cpu" in refused


def test_the_pool_takes_the_room_that_is_left() -> None:
    decided = plan(machine("rtx_4090_24gb"), LLAMA31_8B_BF16, Settings())
    card = decided.memory[1]
    assert card.available is not None
    assert 0 <= card.available - GIB - card.total < 64 * 2**20


@pytest.mark.parametrize(
    ("count", "free_gib", "used", "fits"),
    [(1, 79, 1, False), (2, 79, 2, True), (3, 79, 2, True), (3, 40, 2, False), (4, 40, 4, True), (8, 20, 8, True)],
)
def test_tensor_parallelism_takes_the_fewest_gpus_by_powers_of_two(
    count: int, free_gib: int, used: int, fits: bool
) -> None:
    """131 GiB of weights, sliced evenly."""
    hardware = with_free_gpu_memory(several("a100_80gb_x2", count), *[free_gib * GIB] * count)
    decided = plan(hardware, LLAMA31_70B_BF16, Settings())
    assert (len(decided.devices), decided.fits) == (used, fits)


def test_two_gpus_serve_a_short_context_where_the_weights_just_fit() -> None:
    hardware = with_free_gpu_memory(machine("a100_80gb_x2"), 20 * GIB, 20 * GIB)
    decided = plan(hardware, LLAMA31_8B_BF16, Settings())
    assert (decided.devices, decided.context) == (("cuda:0",), 16384)
    smaller = plan(with_free_gpu_memory(hardware, 12 * GIB, 12 * GIB), LLAMA31_8B_BF16, Settings())
    assert (smaller.devices, smaller.fits) == (("cuda:0", "cuda:1"), True)


def test_a_model_that_does_not_fit_still_has_a_plan() -> None:
    decided = plan(machine("t4_16gb"), LLAMA31_8B_BF16, Settings())
    assert (decided.engine, decided.fits, decided.context) == ("vllm", False, 2048)
    assert "more than is free" in decided.reason


@pytest.mark.parametrize(
    ("hardware", "reason"),
    [
        (machine("v100_16gb"), "Tesla V100-SXM2-16GB (its compute capability 7.0 is below 7.5)"),
        (machine("rtx_3060_12gb"), "vLLM is not taken, because it is not installed"),
        (with_engines(machine("h100_80gb"), llama=["cpu"], vllm=["rocm"]), "was built neither for CUDA nor for CPUs"),
        (with_engines(machine("laptop_no_gpu"), llama=["cpu"], vllm=["cuda"]), "no GPU was found"),
        (with_engines(machine("rx_7900_xtx"), llama=["cpu"], vllm=["cuda"]), "vLLM is planned on CUDA GPUs only"),
    ],
    ids=["old gpu", "not installed", "other build", "no gpu", "other maker"],
)
def test_where_vllm_cannot_run_the_reason_is_given_for_both_engines(hardware: HardwareInfo, reason: str) -> None:
    with pytest.raises(Unavailable) as caught:
        plan(hardware, LLAMA31_8B_BF16, Settings())
    assert reason in caught.value.message
    assert "not a GGUF file" in caught.value.message
    assert (caught.value.hint or "").endswith("use a GGUF file of the same model: llama.cpp runs it on any machine")


def test_a_kv_type_that_vllm_lacks_is_mentioned() -> None:
    decided = plan(machine("h100_80gb"), LLAMA31_8B_BF16, Settings(kv_type="q8_0", parallel=8))
    assert (decided.kv_type, decided.parallel) == ("f16", 8)
    assert "the KV cache stays 16-bit, because vLLM has no q8_0" in decided.reason
