"""Settings win over rules, and the reason says where they cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmserve.errors import SettingsError, Unavailable
from llmserve.planning.memory import GIB
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import EngineInfo, KvType
from tests.planning import models
from tests.planning.machines import machine, with_engines, with_free_gpu_memory, with_ram


def test_context_asked_for_is_kept_even_if_it_does_not_fit() -> None:
    hardware = with_ram(machine("laptop_no_gpu"), 6 * GIB)
    decided = plan(hardware, models.LLAMA31_8B, Settings(context=32768))
    assert (decided.context, decided.kv_cells, decided.fits) == (32768, 32768, False)


def test_context_asked_for_ends_at_the_models_own() -> None:
    decided = plan(machine("laptop_no_gpu"), models.SMOLLM2_135M, Settings(context=32768))
    assert decided.context == 8192
    assert "the context is the 8k tokens the model was made for, not the 32k asked for" in decided.reason


def test_a_short_context_still_gets_whole_cells() -> None:
    decided = plan(machine("laptop_no_gpu"), models.SMOLLM2_135M, Settings(context=64))
    assert (decided.context, decided.kv_cells, decided.batch, decided.micro_batch) == (64, 16 * 256, 256, 256)


def test_the_pool_never_exceeds_what_all_sequences_can_fill() -> None:
    decided = plan(machine("laptop_no_gpu"), models.LLAMA32_1B, Settings(parallel=1))
    assert (decided.parallel, decided.kv_cells) == (1, decided.context)


def test_threads_asked_for_are_kept_and_questioned() -> None:
    decided = plan(machine("container_1cpu_2gib"), models.SMOLLM2_135M, Settings(threads=4))
    assert decided.threads == 4
    assert "4 threads, as asked, are more than the 1 CPU this process may use" in decided.reason


@pytest.mark.parametrize(
    ("usable", "physical", "threads"), [(16, 8, 8), (4, 8, 4), (3, None, 3), (1, 64, 1), (12, 12, 12)]
)
def test_one_thread_per_core_that_the_quota_leaves(usable: int, physical: int | None, threads: int) -> None:
    hardware = machine("laptop_no_gpu")
    cpu = replace(hardware.cpu, usable_cpus=usable, physical_cores=physical)
    assert plan(replace(hardware, cpu=cpu), models.SMOLLM2_135M, Settings()).threads == threads


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
def test_kv_type_asked_for(kv_type: KvType) -> None:
    decided = plan(machine("rtx_4090_24gb"), models.LLAMA31_8B, Settings(kv_type=kv_type))
    assert decided.kv_type == kv_type


def test_kv_type_that_the_heads_do_not_allow_is_f16_and_says_so() -> None:
    odd = replace(models.LLAMA31_8B, layers=tuple(replace(layer, key_length=80) for layer in models.LLAMA31_8B.layers))
    decided = plan(machine("rtx_4090_24gb"), odd, Settings(kv_type="q8_0"))
    assert decided.kv_type == "f16"
    assert "heads do not divide into blocks of q8_0" in decided.reason


def test_kv_is_quantized_only_when_nothing_else_fits() -> None:
    # 9.7 GiB of weights and 2048 tokens: 540 MiB as f16, 287 MiB as q8_0.
    decided = plan(machine("laptop_no_gpu"), models.DEEPSEEK_V2_LITE, Settings())
    assert (decided.kv_type, decided.context, decided.fits) == ("q8_0", 2048, True)
    assert "the KV cache is q8_0, because f16 does not fit" in decided.reason
    assert plan(with_ram(machine("laptop_no_gpu"), 9 * GIB), models.DEEPSEEK_V2_LITE, Settings()).kv_type == "f16"


def test_no_gpu_layers_means_the_cpu() -> None:
    decided = plan(machine("rtx_4090_24gb"), models.LLAMA31_8B, Settings(gpu_layers=0))
    assert (decided.devices, decided.gpu_layers, decided.parallel) == (("cpu",), 0, 16)
    assert "`gpu_layers` is 0" in decided.reason


def test_gpu_layers_asked_for_are_exact_and_capped() -> None:
    some = plan(machine("rtx_4090_24gb"), models.LLAMA31_8B, Settings(gpu_layers=10))
    assert (some.devices, some.gpu_layers, some.gpu_split) == (("cuda:0", "cpu"), 10, (10,))
    everything = plan(machine("rtx_4090_24gb"), models.LLAMA31_8B, Settings(gpu_layers=9999))
    assert (everything.devices, everything.gpu_layers) == (("cuda:0",), 33)


def test_layers_asked_for_take_one_gpu_when_one_is_enough() -> None:
    decided = plan(machine("a100_80gb_x2"), models.LLAMA31_70B, Settings(gpu_layers=20))
    assert (decided.devices, decided.gpu_split) == (("cuda:0", "cpu"), (20,))
    unused = {refusal.option: refusal.reason for refusal in decided.refused}["cuda:1"]
    assert unused.endswith("the 20 layers asked for fit on cuda:0")


def test_gpu_layers_asked_for_are_kept_even_if_they_do_not_fit() -> None:
    decided = plan(machine("rtx_3060_12gb"), models.LLAMA31_70B, Settings(gpu_layers=60))
    assert (decided.gpu_layers, decided.context, decided.fits) == (60, 2048, False)
    assert "more than 11.5 GiB of free GPU memory" in decided.reason


def test_gpu_layers_without_a_gpu_have_no_effect_and_say_so() -> None:
    decided = plan(machine("laptop_no_gpu"), models.LLAMA31_8B, Settings(gpu_layers=10))
    assert decided.gpu_layers == 0
    assert "no GPU was found, so `gpu_layers` = 10 has no effect" in decided.reason


def test_a_gpu_of_unknown_memory_is_used_only_when_layers_are_asked_for() -> None:
    hardware = with_free_gpu_memory(machine("rx_7900_xtx"), None)
    cautious = plan(hardware, models.LLAMA31_8B, Settings())
    assert cautious.devices == ("cpu",)
    assert "how much of its memory is free is not known" in cautious.reason
    bold = plan(hardware, models.LLAMA31_8B, Settings(gpu_layers=33))
    assert (bold.devices, bold.gpu_layers, bold.fits) == (("rocm:0",), 33, True)
    assert "how much memory is free is not known" in bold.reason


def test_unknown_ram_is_said_and_not_invented() -> None:
    decided = plan(with_ram(machine("laptop_no_gpu"), None), models.LLAMA31_8B, Settings())
    assert (decided.context, decided.fits, decided.memory[0].available) == (16384, True, None)
    assert "how much memory is free is not known" in decided.reason


@pytest.mark.parametrize(("engine", "model"), [("vllm", models.LLAMA31_8B), ("llama.cpp", models.LLAMA31_8B_BF16)])
def test_an_engine_that_cannot_run_the_format_is_refused(engine: str, model: object) -> None:
    with pytest.raises(SettingsError) as caught:
        plan(machine("h100_80gb"), model, Settings(engine=engine))  # type: ignore[arg-type]
    assert caught.value.param == "engine"
    assert "GGUF file" in caught.value.message
    assert caught.value.hint is not None


def test_without_llama_cpp_a_gguf_file_cannot_be_run() -> None:
    with pytest.raises(Unavailable) as caught:
        plan(with_engines(machine("h100_80gb"), vllm=["cuda"]), models.LLAMA31_8B, Settings())
    assert "llama.cpp is not taken, because it is not installed" in caught.value.message
    assert caught.value.hint == "`llmserve engines install llama.cpp` builds it for this machine"


def test_an_engine_that_is_there_and_fails_is_not_said_to_be_missing() -> None:
    broken = EngineInfo("llama.cpp", "0.3.36", (), "the probe was killed by SIGILL")
    with pytest.raises(Unavailable) as caught:
        plan(replace(machine("laptop_no_gpu"), engines=(broken,)), models.LLAMA31_8B, Settings())
    reason = "llama.cpp is not taken, because what is installed cannot be used (the probe was killed by SIGILL)"
    assert reason in caught.value.message
    assert caught.value.hint == "`llmserve engines install llama.cpp` builds it for this machine"
