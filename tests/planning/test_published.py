"""Estimates against logs that others published of llama.cpp; each case names where its numbers stand."""

from __future__ import annotations

import pytest

from llmserve.planning.memory import MIB, compute_bytes, kv_bytes
from llmserve.types import KvType, ModelInfo
from tests.planning import models
from tests.planning.models import Shape, build

# llama.cpp issue 11200: qwen2.5-coder:32b-instruct over two GPUs.
QWEN25_32B = build(
    "Qwen2.5-Coder-32B",
    "Q4_K_M",
    Shape("qwen2", 19_851_335_840, 32_763_876_352, 64, 5120, 27648, 40, 8, 128, 128, 152064, 32768),
)
# SciSharp/LLamaSharp issue 1099.
QWEN25_3B = build(
    "Qwen2.5-3B",
    "Q4_K_M",
    Shape("qwen2", 1_929_902_912, 3_085_938_688, 36, 2048, 11008, 16, 2, 128, 128, 151936, 32768, tied=True),
)
# llama.cpp pull request 6122: Command-R, whose 64 heads have a key and a value each.
COMMAND_R = build(
    "c4ai-command-r-v01",
    "Q4_K_M",
    Shape("command-r", 22_067_000_000, 34_980_831_232, 40, 8192, 22528, 64, 64, 128, 128, 256000, 131072, tied=True),
)


@pytest.mark.parametrize(
    ("model", "kv_type", "cells", "mebibytes"),
    [
        # "KV self size", all GPUs together.
        pytest.param(QWEN25_32B, "q8_0", 32768, 4352.0, id="ggml-org/llama.cpp#11200"),
        pytest.param(QWEN25_3B, "f16", 4096, 144.0, id="SciSharp/LLamaSharp#1099"),
        pytest.param(COMMAND_R, "f16", 4096, 5120.0, id="ggml-org/llama.cpp#6122"),
    ],
)
def test_the_cache_is_exactly_what_was_logged(model: ModelInfo, kv_type: KvType, cells: int, mebibytes: float) -> None:
    assert kv_bytes(model, kv_type, cells, 1, 512) == mebibytes * MIB


def test_the_buffer_of_a_step_that_gives_a_row_for_each_token() -> None:
    # SciSharp/LLamaSharp#1099: "CUDA0 compute buffer size = 300.75 MiB", before rows were bounded.
    assert compute_bytes(QWEN25_3B, 512, 512, 4096) == pytest.approx(300.75 * MIB, rel=0.1)


def test_a_published_file_size_is_what_the_tensors_add_up_to() -> None:
    # ggml-org/llama.cpp#14235: "file size = 17.28 GiB (4.86 BPW)".
    assert models.QWEN3_30B_A3B.size_bytes == pytest.approx(17.28 * 2**30, rel=0.01)
    assert models.QWEN3_30B_A3B.size_bytes * 8 / models.QWEN3_30B_A3B.parameters == pytest.approx(4.86, rel=0.01)
