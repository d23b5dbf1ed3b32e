"""Safetensors models on vLLM's CPU build, and how large a pool of vLLM's really is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmserve.planning.memory import GIB, MIB, kv_bytes_per_token
from llmserve.planning.plan import plan
from llmserve.planning.vllm_cpu import BLOCK_TOKENS, block_bytes
from llmserve.settings import Settings
from llmserve.types import HardwareInfo, ModelInfo
from tests.planning.machines import machine, with_engines, with_ram
from tests.planning.models import LLAMA31_8B_BF16, Shape, build

SMOLLM2_BF16 = build(
    "SmolLM2-135M-Instruct",
    "BF16",
    Shape("llama", 269_060_552, 134_515_008, 30, 576, 1536, 9, 3, 64, 64, 49152, 8192, head_bits=16, tied=True),
    format="safetensors",
)
QWEN25_1500M_BF16 = build(
    "Qwen2.5-1.5B-Instruct",
    "BF16",
    Shape("qwen2", 3_087_467_144, 1_543_714_304, 28, 1536, 8960, 12, 2, 128, 128, 151936, 32768, head_bits=16),
    format="safetensors",
)


def cpu_machine(name: str) -> HardwareInfo:
    return with_engines(machine(name), llama=["cpu"], vllm=["cpu"])


@pytest.mark.parametrize(
    ("model", "pool_bytes", "tokens", "block_tokens"),
    [
        # vLLM 0.32's CPU build with --kv-cache-memory-bytes 1073741824.
        (SMOLLM2_BF16, GIB, 46_592, 128),
        # vLLM issue 10517, an RTX 4090: "3.81 GiB", 1952 blocks.
        (LLAMA31_8B_BF16, 3.81 * GIB, 1952 * 16, 16),
        # A published log of Qwen/Qwen2.5-1.5B-Instruct: "Available KV cache memory: 0.56 GiB".
        (QWEN25_1500M_BF16, 0.56 * GIB, 20_992, 16),
    ],
)
def test_a_token_takes_what_published_logs_say(
    model: ModelInfo, pool_bytes: float, tokens: int, block_tokens: int
) -> None:
    ours = pool_bytes // (block_tokens * kv_bytes_per_token(model, "f16")) * block_tokens
    assert ours == pytest.approx(tokens, rel=0.01)


def test_the_pool_is_whole_blocks_and_one_more() -> None:
    decided = plan(cpu_machine("xeon_amx"), SMOLLM2_BF16, Settings())
    assert decided.vllm is not None
    assert decided.kv_cells % BLOCK_TOKENS == 0
    assert decided.vllm.kv_cache_bytes == (decided.kv_cells // BLOCK_TOKENS + 1) * block_bytes(SMOLLM2_BF16)
    assert decided.kv_cells <= decided.parallel * decided.context


def test_a_processor_with_sixteen_bit_instructions() -> None:
    decided = plan(cpu_machine("xeon_amx"), LLAMA31_8B_BF16, Settings())
    assert (decided.engine, decided.devices, decided.fits) == ("vllm", ("cpu",), True)
    assert decided.vllm is not None
    assert (decided.vllm.dtype, decided.vllm.eager) == ("bfloat16", True)
    assert decided.reason.startswith("vLLM on ")
    assert "GGUF" not in decided.reason


def test_a_processor_without_them_computes_wider_where_there_is_room() -> None:
    hardware = cpu_machine("laptop_no_gpu")
    small = plan(hardware, SMOLLM2_BF16, Settings())
    assert small.vllm is not None
    assert small.vllm.dtype == "float32"
    assert small.memory[0].weights == pytest.approx(2 * SMOLLM2_BF16.size_bytes, rel=0.01)
    assert "so a GGUF file of the model runs faster" in small.reason
    tight = plan(with_ram(hardware, 2750 * MIB), SMOLLM2_BF16, Settings())
    assert tight.vllm is not None
    assert tight.vllm.dtype == "bfloat16"


def test_a_model_that_is_too_large_still_has_a_plan() -> None:
    decided = plan(with_ram(cpu_machine("xeon_amx"), 8 * GIB), LLAMA31_8B_BF16, Settings())
    assert (decided.fits, decided.context) == (False, 2048)
    assert "more than is free" in decided.reason


def test_the_user_may_have_it_compiled() -> None:
    decided = plan(cpu_machine("xeon_amx"), SMOLLM2_BF16, Settings(fast_start=False, parallel=4))
    assert decided.vllm is not None
    assert (decided.vllm.eager, decided.parallel) == (False, 4)


def test_gpus_of_the_machine_are_refused_by_name() -> None:
    decided = plan(with_engines(machine("rtx_4090_24gb"), llama=["cpu"], vllm=["cpu"]), SMOLLM2_BF16, Settings())
    refused = {refusal.option: refusal.reason for refusal in decided.refused}
    assert "the installed vLLM is built for CPUs" in refused["cuda:0"]


def test_a_model_without_a_template_has_no_parsers() -> None:
    decided = plan(cpu_machine("xeon_amx"), replace(SMOLLM2_BF16, chat_template=None), Settings())
    assert decided.vllm is not None
    assert (decided.vllm.tool_parser, decided.vllm.reasoning_parser) == (None, None)
