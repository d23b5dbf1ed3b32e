"""Which GPUs are used, how layers are split over them, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace

from llmserve.planning.memory import GIB
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import EnginePlan, GpuInfo
from tests.planning import models
from tests.planning.machines import machine, with_engines, with_free_gpu_memory, with_ram


def refusals(decided: EnginePlan) -> dict[str, str]:
    return {refusal.option: refusal.reason for refusal in decided.refused}


def test_the_example_of_the_documentation() -> None:
    hardware = with_ram(machine("container_1cpu_2gib"), int(22.1 * GIB))
    cpu = replace(hardware.cpu, usable_cpus=2, features=("avx", "avx2"))
    decided = plan(replace(hardware, cpu=cpu), models.SMOLLM2_135M, Settings())
    assert decided.reason == (
        "llama.cpp on 2 CPU threads (AVX2): no GPU was found; "
        "94 MiB of weights and 16 streams of 8k tokens (2.8 GiB, 2 at first) fit in 22.1 GiB of free RAM"
    )


def test_a_gpu_that_the_build_cannot_use_is_the_reason() -> None:
    decided = plan(machine("rtx_3090_engine_cpu_only"), models.LLAMA31_8B, Settings())
    sentence = (
        "NVIDIA GeForce RTX 3090 is not used, because the installed llama.cpp was built for CPU only "
        "(`llmserve engines install llama.cpp` mends that)"
    )
    assert sentence in decided.reason
    assert refusals(decided)["cuda:0"] == sentence


def test_a_vulkan_build_drives_other_makers_gpus() -> None:
    hardware = with_engines(machine("rx_7900_xtx"), llama=["vulkan", "cpu"])
    decided = plan(hardware, models.LLAMA31_8B, Settings())
    assert (decided.devices, decided.gpu_layers) == (("vulkan:0",), 33)
    without_driver = plan(replace(hardware, vulkan=False), models.LLAMA31_8B, Settings())
    assert without_driver.devices == ("cpu",)
    assert "built for Vulkan and CPU only" in refusals(without_driver)["rocm:0"]


def test_a_model_takes_one_gpu_when_one_is_enough_and_the_emptier_one() -> None:
    hardware = with_free_gpu_memory(machine("a100_80gb_x2"), 20 * GIB, 60 * GIB)
    decided = plan(hardware, models.QWEN3_32B, Settings())
    assert (decided.devices, decided.gpu_split) == (("cuda:1",), (65,))
    assert "because the model fits on cuda:1" in refusals(decided)["cuda:0"]


def test_a_model_is_spread_evenly_over_equal_gpus() -> None:
    hardware = with_free_gpu_memory(machine("a100_80gb_x2"), 40 * GIB, 40 * GIB)
    decided = plan(hardware, models.LLAMA31_70B, Settings())
    assert (decided.devices, decided.gpu_layers, decided.fits) == (("cuda:0", "cuda:1"), 81, True)
    first, second = (entry.total for entry in decided.memory[1:])
    assert abs(first - second) < 3 * GIB


def test_a_model_larger_than_all_gpus_fills_each_and_leaves_the_rest_to_the_cpu() -> None:
    hardware = with_free_gpu_memory(machine("a100_80gb_x2"), 10 * GIB, 20 * GIB)
    decided = plan(hardware, models.LLAMA31_70B, Settings())
    assert decided.devices == ("cuda:0", "cuda:1", "cpu")
    assert 0 < decided.gpu_split[0] < decided.gpu_split[1]
    assert f"{decided.gpu_layers} of 81 layers" in decided.reason


def test_a_gpu_without_room_for_a_layer_is_not_used_and_says_so() -> None:
    hardware = with_free_gpu_memory(machine("rtx_3060_12gb"), GIB)
    decided = plan(hardware, models.LLAMA31_70B, Settings())
    assert decided.devices == ("cpu",)
    assert "its 1.0 GiB of free memory do not hold a layer and its work space" in decided.reason


def test_a_longer_context_takes_a_second_gpu() -> None:
    decided = plan(machine("a100_80gb_x2"), models.LLAMA31_70B, Settings(context=131072))
    assert (decided.devices, decided.gpu_layers, decided.context) == (("cuda:0", "cuda:1"), 81, 131072)


def test_ram_that_lacks_beside_a_partial_offload_shortens_the_context_not_the_layers() -> None:
    roomy = machine("rtx_3060_12gb")
    wide = plan(roomy, models.QWEN3_32B, Settings())
    needed = wide.memory[0].total - wide.memory[0].saved_prefixes
    ram = needed + needed // 20
    tight = plan(with_ram(roomy, ram), models.QWEN3_32B, Settings())
    assert (wide.context, tight.context) == (4096, 2048)
    assert tight.gpu_layers >= wide.gpu_layers
    assert tight.fits


def test_an_integrated_gpu_is_not_mixed_with_a_discrete_one() -> None:
    hardware = machine("rtx_4090_24gb")
    integrated = GpuInfo("vulkan", 1, "Intel UHD 770", None, None, None, None, None, None, None, unified_memory=True)
    both = replace(hardware, gpus=(*hardware.gpus, integrated))
    decided = plan(with_engines(both, llama=["cuda", "vulkan", "cpu"]), models.LLAMA31_8B, Settings())
    assert decided.devices == ("cuda:0",)
    assert refusals(decided)["vulkan:1"] == (
        "Intel UHD 770 is not used, because it is not mixed with NVIDIA GeForce RTX 4090"
    )


def test_a_unified_gpu_takes_a_share_of_the_ram() -> None:
    hardware = machine("apple_m2_16gb")
    decided = plan(hardware, models.LLAMA31_8B, Settings())
    ram, metal = decided.memory
    assert hardware.memory.total is not None
    assert metal.available == hardware.memory.total * 2 // 3
    assert ram.available is not None
    assert ram.total + metal.total <= ram.available
    large = replace(hardware, memory=replace(hardware.memory, total=64 * GIB, available=60 * GIB))
    assert plan(large, models.LLAMA31_8B, Settings()).memory[1].available == 48 * GIB


def test_a_unified_gpu_cannot_hold_what_the_ram_cannot() -> None:
    hardware = with_ram(machine("apple_m2_16gb"), 4 * GIB)
    decided = plan(hardware, models.LLAMA31_8B, Settings())
    assert not decided.fits
    assert "of RAM are needed in all" in decided.reason


def test_recurrent_states_limit_the_number_of_sequences() -> None:
    heavy = replace(
        models.MAMBA_2_8B, layers=tuple(replace(layer, state_bytes=16 << 20) for layer in models.MAMBA_2_8B.layers)
    )
    # 1 GiB of state per sequence, at most a quarter of 20 GiB.
    assert plan(with_ram(machine("laptop_no_gpu"), 20 * GIB), heavy, Settings()).parallel == 4


def test_an_embedding_model_takes_whole_sequences_in_one_graph() -> None:
    decided = plan(machine("laptop_no_gpu"), models.NOMIC_EMBED, Settings())
    assert decided.context == decided.batch == decided.micro_batch == decided.kv_cells == 2048
    assert "pool" not in decided.reason
    assert decided.kind == "embed"
    # The engine sets a row of logits aside for each token of a graph, though none is computed.
    assert decided.memory[0].compute >= 4 * 2048 * models.NOMIC_EMBED.vocabulary
