"""The plan for every machine and every GGUF model, number by number.

A row changes only when a rule does; the reasons for the rules are in `llmserve.planning.rules` and its callers, and
`test_invariants.py` checks independently that no row could be better.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import KvLayout, KvType
from tests.planning.machines import NAMES, machine
from tests.planning.models import GGUF_MODELS


@dataclass(frozen=True)
class Row:
    devices: str
    gpu_layers: int
    context: int
    parallel: int
    kv_cells: int
    fits: bool = True
    kv_type: KvType = "f16"
    kv_layout: KvLayout = "unified"


# One per physical core within the quota.
THREADS = {
    "a100_80gb_x2": 64,
    "a100_mig_1g_10gb": 6,
    "apple_m2_16gb": 8,
    "arm_server_64c": 64,
    "container_1cpu_2gib": 1,
    "h100_80gb": 16,
    "laptop_no_gpu": 10,
    "raspberry_pi_5_8gb": 4,
    "rtx_3060_12gb": 6,
    "rtx_3090_engine_cpu_only": 8,
    "rtx_3090_half_used": 8,
    "rtx_4090_24gb": 16,
    "rx_7900_xtx": 8,
    "t4_16gb": 2,
    "v100_16gb": 4,
    "xeon_amx": 22,
}

EXPECTED = {
    "a100_80gb_x2": {
        "smollm2-135m": Row("cuda:0", 31, 8192, 32, 32768),
        "qwen2.5-0.5b": Row("cuda:0", 25, 16384, 32, 65536),
        "llama3.2-1b": Row("cuda:0", 17, 16384, 32, 65536),
        "gemma3-4b": Row("cuda:0", 35, 16384, 32, 65536),
        "qwen2.5-7b": Row("cuda:0", 29, 16384, 32, 65536),
        "llama3.1-8b": Row("cuda:0", 33, 16384, 32, 65536),
        "gemma2-9b": Row("cuda:0", 43, 8192, 32, 32768),
        "deepseek-v2-lite": Row("cuda:0", 28, 16384, 32, 65536),
        "qwen3-32b": Row("cuda:0", 65, 16384, 32, 65536),
        "mixtral-8x7b": Row("cuda:0", 33, 16384, 32, 65536),
        "llama3.1-70b": Row("cuda:0", 81, 16384, 32, 65536),
        "mamba-2.8b": Row("cuda:0", 65, 8192, 32, 32768),
        "nomic-embed": Row("cuda:0", 13, 2048, 32, 2048),
    },
    "a100_mig_1g_10gb": {
        "smollm2-135m": Row("cuda:0", 31, 8192, 32, 32768),
        "qwen2.5-0.5b": Row("cuda:0", 25, 16384, 32, 65536),
        "llama3.2-1b": Row("cuda:0", 17, 16384, 32, 65536),
        "gemma3-4b": Row("cuda:0", 35, 16384, 32, 65536),
        "qwen2.5-7b": Row("cuda:0", 29, 16384, 32, 65536),
        "llama3.1-8b": Row("cuda:0", 33, 16384, 32, 35072),
        "gemma2-9b": Row("cuda:0", 43, 8192, 32, 9728),
        "deepseek-v2-lite": Row("cuda:0 cpu", 21, 4096, 16, 4096),
        "qwen3-32b": Row("cuda:0 cpu", 27, 4096, 16, 4096),
        "mixtral-8x7b": Row("cuda:0 cpu", 10, 4096, 16, 4096),
        "llama3.1-70b": Row("cuda:0 cpu", 15, 4096, 16, 4096),
        "mamba-2.8b": Row("cuda:0", 65, 8192, 32, 32768),
        "nomic-embed": Row("cuda:0", 13, 2048, 32, 2048),
    },
    "apple_m2_16gb": {
        "smollm2-135m": Row("metal:0", 31, 8192, 32, 32768),
        "qwen2.5-0.5b": Row("metal:0", 25, 16384, 32, 65536),
        "llama3.2-1b": Row("metal:0", 17, 16384, 32, 65536),
        "gemma3-4b": Row("metal:0", 35, 16384, 32, 65536),
        "qwen2.5-7b": Row("metal:0", 29, 16384, 32, 65536),
        "llama3.1-8b": Row("metal:0", 33, 16384, 32, 28928),
        "gemma2-9b": Row("metal:0", 43, 4096, 32, 6400),
        "deepseek-v2-lite": Row("metal:0 cpu", 26, 4096, 16, 4096, fits=False),
        "qwen3-32b": Row("metal:0 cpu", 33, 4096, 16, 4096, fits=False),
        "mixtral-8x7b": Row("metal:0 cpu", 13, 4096, 16, 4096, fits=False),
        "llama3.1-70b": Row("metal:0 cpu", 19, 4096, 16, 4096, fits=False),
        "mamba-2.8b": Row("metal:0", 65, 8192, 32, 32768),
        "nomic-embed": Row("metal:0", 13, 2048, 32, 2048),
    },
    "arm_server_64c": {
        "smollm2-135m": Row("cpu", 0, 8192, 16, 131072, kv_layout="split"),
        "qwen2.5-0.5b": Row("cpu", 0, 16384, 16, 262144, kv_layout="split"),
        "llama3.2-1b": Row("cpu", 0, 16384, 16, 262144, kv_layout="split"),
        "gemma3-4b": Row("cpu", 0, 16384, 16, 32768),
        "qwen2.5-7b": Row("cpu", 0, 16384, 16, 32768),
        "llama3.1-8b": Row("cpu", 0, 16384, 16, 32768),
        "gemma2-9b": Row("cpu", 0, 8192, 16, 16384),
        "deepseek-v2-lite": Row("cpu", 0, 16384, 16, 32768),
        "qwen3-32b": Row("cpu", 0, 16384, 16, 32768),
        "mixtral-8x7b": Row("cpu", 0, 16384, 16, 32768),
        "llama3.1-70b": Row("cpu", 0, 16384, 16, 32768),
        "mamba-2.8b": Row("cpu", 0, 8192, 16, 16384),
        "nomic-embed": Row("cpu", 0, 2048, 16, 2048),
    },
    "container_1cpu_2gib": {
        "smollm2-135m": Row("cpu", 0, 8192, 4, 16384),
        "qwen2.5-0.5b": Row("cpu", 0, 16384, 4, 32768),
        "llama3.2-1b": Row("cpu", 0, 16384, 4, 22272),
        "gemma3-4b": Row("cpu", 0, 2048, 4, 2048, fits=False),
        "qwen2.5-7b": Row("cpu", 0, 2048, 4, 2048, fits=False),
        "llama3.1-8b": Row("cpu", 0, 2048, 4, 2048, fits=False),
        "gemma2-9b": Row("cpu", 0, 2048, 4, 2048, fits=False),
        "deepseek-v2-lite": Row("cpu", 0, 2048, 4, 2048, fits=False),
        "qwen3-32b": Row("cpu", 0, 2048, 4, 2048, fits=False),
        "mixtral-8x7b": Row("cpu", 0, 2048, 4, 2048, fits=False),
        "llama3.1-70b": Row("cpu", 0, 2048, 4, 2048, fits=False),
        "mamba-2.8b": Row("cpu", 0, 2048, 4, 2048, fits=False),
        "nomic-embed": Row("cpu", 0, 2048, 4, 2048),
    },
    "h100_80gb": {
        "smollm2-135m": Row("cuda:0", 31, 8192, 32, 32768),
        "qwen2.5-0.5b": Row("cuda:0", 25, 16384, 32, 65536),
        "llama3.2-1b": Row("cuda:0", 17, 16384, 32, 65536),
        "gemma3-4b": Row("cuda:0", 35, 16384, 32, 65536),
        "qwen2.5-7b": Row("cuda:0", 29, 16384, 32, 65536),
        "llama3.1-8b": Row("cuda:0", 33, 16384, 32, 65536),
        "gemma2-9b": Row("cuda:0", 43, 8192, 32, 32768),
        "deepseek-v2-lite": Row("cuda:0", 28, 16384, 32, 65536),
        "qwen3-32b": Row("cuda:0", 65, 16384, 32, 65536),
        "mixtral-8x7b": Row("cuda:0", 33, 16384, 32, 65536),
        "llama3.1-70b": Row("cuda:0", 81, 16384, 32, 65536),
        "mamba-2.8b": Row("cuda:0", 65, 8192, 32, 32768),
        "nomic-embed": Row("cuda:0", 13, 2048, 32, 2048),
    },
    "laptop_no_gpu": {
        "smollm2-135m": Row("cpu", 0, 8192, 16, 16384),
        "qwen2.5-0.5b": Row("cpu", 0, 16384, 16, 32768),
        "llama3.2-1b": Row("cpu", 0, 16384, 16, 32768),
        "gemma3-4b": Row("cpu", 0, 16384, 16, 32768),
        "qwen2.5-7b": Row("cpu", 0, 16384, 16, 32768),
        "llama3.1-8b": Row("cpu", 0, 16384, 16, 32768),
        "gemma2-9b": Row("cpu", 0, 8192, 16, 14080),
        "deepseek-v2-lite": Row("cpu", 0, 2048, 16, 2304, kv_type="q8_0"),
        "qwen3-32b": Row("cpu", 0, 2048, 16, 2048, fits=False),
        "mixtral-8x7b": Row("cpu", 0, 2048, 16, 2048, fits=False),
        "llama3.1-70b": Row("cpu", 0, 2048, 16, 2048, fits=False),
        "mamba-2.8b": Row("cpu", 0, 8192, 16, 16384),
        "nomic-embed": Row("cpu", 0, 2048, 16, 2048),
    },
    "raspberry_pi_5_8gb": {
        "smollm2-135m": Row("cpu", 0, 8192, 16, 16384),
        "qwen2.5-0.5b": Row("cpu", 0, 16384, 16, 32768),
        "llama3.2-1b": Row("cpu", 0, 16384, 16, 32768),
        "gemma3-4b": Row("cpu", 0, 16384, 16, 32768),
        "qwen2.5-7b": Row("cpu", 0, 16384, 16, 32768),
        "llama3.1-8b": Row("cpu", 0, 8192, 16, 13056),
        "gemma2-9b": Row("cpu", 0, 2048, 16, 2304),
        "deepseek-v2-lite": Row("cpu", 0, 2048, 16, 2048, fits=False),
        "qwen3-32b": Row("cpu", 0, 2048, 16, 2048, fits=False),
        "mixtral-8x7b": Row("cpu", 0, 2048, 16, 2048, fits=False),
        "llama3.1-70b": Row("cpu", 0, 2048, 16, 2048, fits=False),
        "mamba-2.8b": Row("cpu", 0, 8192, 16, 16384),
        "nomic-embed": Row("cpu", 0, 2048, 16, 2048),
    },
    "rtx_3060_12gb": {
        "smollm2-135m": Row("cuda:0", 31, 8192, 32, 32768),
        "qwen2.5-0.5b": Row("cuda:0", 25, 16384, 32, 65536),
        "llama3.2-1b": Row("cuda:0", 17, 16384, 32, 65536),
        "gemma3-4b": Row("cuda:0", 35, 16384, 32, 65536),
        "qwen2.5-7b": Row("cuda:0", 29, 16384, 32, 65536),
        "llama3.1-8b": Row("cuda:0", 33, 16384, 32, 50176),
        "gemma2-9b": Row("cuda:0", 43, 8192, 32, 15360),
        "deepseek-v2-lite": Row("cuda:0 cpu", 26, 4096, 16, 4096),
        "qwen3-32b": Row("cuda:0 cpu", 34, 4096, 16, 4096),
        "mixtral-8x7b": Row("cuda:0 cpu", 13, 4096, 16, 4096),
        "llama3.1-70b": Row("cuda:0 cpu", 19, 4096, 16, 4096, fits=False),
        "mamba-2.8b": Row("cuda:0", 65, 8192, 32, 32768),
        "nomic-embed": Row("cuda:0", 13, 2048, 32, 2048),
    },
    "rtx_3090_engine_cpu_only": {
        "smollm2-135m": Row("cpu", 0, 8192, 16, 131072, kv_layout="split"),
        "qwen2.5-0.5b": Row("cpu", 0, 16384, 16, 262144, kv_layout="split"),
        "llama3.2-1b": Row("cpu", 0, 16384, 16, 32768),
        "gemma3-4b": Row("cpu", 0, 16384, 16, 32768),
        "qwen2.5-7b": Row("cpu", 0, 16384, 16, 32768),
        "llama3.1-8b": Row("cpu", 0, 16384, 16, 32768),
        "gemma2-9b": Row("cpu", 0, 8192, 16, 16384),
        "deepseek-v2-lite": Row("cpu", 0, 16384, 16, 32768),
        "qwen3-32b": Row("cpu", 0, 16384, 16, 28928),
        "mixtral-8x7b": Row("cpu", 0, 4096, 16, 7680),
        "llama3.1-70b": Row("cpu", 0, 2048, 16, 2048, fits=False),
        "mamba-2.8b": Row("cpu", 0, 8192, 16, 16384),
        "nomic-embed": Row("cpu", 0, 2048, 16, 2048),
    },
    "rtx_3090_half_used": {
        "smollm2-135m": Row("cuda:0", 31, 8192, 32, 32768),
        "qwen2.5-0.5b": Row("cuda:0", 25, 16384, 32, 65536),
        "llama3.2-1b": Row("cuda:0", 17, 16384, 32, 65536),
        "gemma3-4b": Row("cuda:0", 35, 16384, 32, 65536),
        "qwen2.5-7b": Row("cuda:0", 29, 16384, 32, 65536),
        "llama3.1-8b": Row("cuda:0", 33, 16384, 32, 50688),
        "gemma2-9b": Row("cuda:0", 43, 8192, 32, 15616),
        "deepseek-v2-lite": Row("cuda:0 cpu", 26, 4096, 16, 4096),
        "qwen3-32b": Row("cuda:0 cpu", 34, 4096, 16, 4096),
        "mixtral-8x7b": Row("cuda:0 cpu", 13, 4096, 16, 4096),
        "llama3.1-70b": Row("cuda:0 cpu", 19, 4096, 16, 4096),
        "mamba-2.8b": Row("cuda:0", 65, 8192, 32, 32768),
        "nomic-embed": Row("cuda:0", 13, 2048, 32, 2048),
    },
    "rtx_4090_24gb": {
        "smollm2-135m": Row("cuda:0", 31, 8192, 32, 32768),
        "qwen2.5-0.5b": Row("cuda:0", 25, 16384, 32, 65536),
        "llama3.2-1b": Row("cuda:0", 17, 16384, 32, 65536),
        "gemma3-4b": Row("cuda:0", 35, 16384, 32, 65536),
        "qwen2.5-7b": Row("cuda:0", 29, 16384, 32, 65536),
        "llama3.1-8b": Row("cuda:0", 33, 16384, 32, 65536),
        "gemma2-9b": Row("cuda:0", 43, 8192, 32, 32768),
        "deepseek-v2-lite": Row("cuda:0", 28, 16384, 32, 48384),
        "qwen3-32b": Row("cuda:0", 65, 16384, 32, 16640),
        "mixtral-8x7b": Row("cuda:0 cpu", 28, 4096, 16, 4096),
        "llama3.1-70b": Row("cuda:0 cpu", 43, 4096, 16, 4096),
        "mamba-2.8b": Row("cuda:0", 65, 8192, 32, 32768),
        "nomic-embed": Row("cuda:0", 13, 2048, 32, 2048),
    },
    "rx_7900_xtx": {
        "smollm2-135m": Row("rocm:0", 31, 8192, 32, 32768),
        "qwen2.5-0.5b": Row("rocm:0", 25, 16384, 32, 65536),
        "llama3.2-1b": Row("rocm:0", 17, 16384, 32, 65536),
        "gemma3-4b": Row("rocm:0", 35, 16384, 32, 65536),
        "qwen2.5-7b": Row("rocm:0", 29, 16384, 32, 65536),
        "llama3.1-8b": Row("rocm:0", 33, 16384, 32, 65536),
        "gemma2-9b": Row("rocm:0", 43, 8192, 32, 32768),
        "deepseek-v2-lite": Row("rocm:0", 28, 16384, 32, 48640),
        "qwen3-32b": Row("rocm:0", 65, 16384, 32, 16896),
        "mixtral-8x7b": Row("rocm:0 cpu", 28, 4096, 16, 4096),
        "llama3.1-70b": Row("rocm:0 cpu", 43, 4096, 16, 4096),
        "mamba-2.8b": Row("rocm:0", 65, 8192, 32, 32768),
        "nomic-embed": Row("rocm:0", 13, 2048, 32, 2048),
    },
    "t4_16gb": {
        "smollm2-135m": Row("cuda:0", 31, 8192, 32, 32768),
        "qwen2.5-0.5b": Row("cuda:0", 25, 16384, 32, 65536),
        "llama3.2-1b": Row("cuda:0", 17, 16384, 32, 65536),
        "gemma3-4b": Row("cuda:0", 35, 16384, 32, 65536),
        "qwen2.5-7b": Row("cuda:0", 29, 16384, 32, 65536),
        "llama3.1-8b": Row("cuda:0", 33, 16384, 32, 65536),
        "gemma2-9b": Row("cuda:0", 43, 8192, 32, 24576),
        "deepseek-v2-lite": Row("cuda:0", 28, 8192, 32, 14848),
        "qwen3-32b": Row("cuda:0 cpu", 44, 4096, 16, 4096),
        "mixtral-8x7b": Row("cuda:0 cpu", 17, 4096, 16, 4096, fits=False),
        "llama3.1-70b": Row("cuda:0 cpu", 25, 4096, 16, 4096, fits=False),
        "mamba-2.8b": Row("cuda:0", 65, 8192, 32, 32768),
        "nomic-embed": Row("cuda:0", 13, 2048, 32, 2048),
    },
    "v100_16gb": {
        "smollm2-135m": Row("cuda:0", 31, 8192, 32, 32768),
        "qwen2.5-0.5b": Row("cuda:0", 25, 16384, 32, 65536),
        "llama3.2-1b": Row("cuda:0", 17, 16384, 32, 65536),
        "gemma3-4b": Row("cuda:0", 35, 16384, 32, 65536),
        "qwen2.5-7b": Row("cuda:0", 29, 16384, 32, 65536),
        "llama3.1-8b": Row("cuda:0", 33, 16384, 32, 65536),
        "gemma2-9b": Row("cuda:0", 43, 8192, 32, 28160),
        "deepseek-v2-lite": Row("cuda:0", 28, 16384, 32, 19200),
        "qwen3-32b": Row("cuda:0 cpu", 48, 4096, 16, 4096),
        "mixtral-8x7b": Row("cuda:0 cpu", 18, 4096, 16, 4096),
        "llama3.1-70b": Row("cuda:0 cpu", 27, 4096, 16, 4096),
        "mamba-2.8b": Row("cuda:0", 65, 8192, 32, 32768),
        "nomic-embed": Row("cuda:0", 13, 2048, 32, 2048),
    },
    "xeon_amx": {
        "smollm2-135m": Row("cpu", 0, 8192, 16, 131072, kv_layout="split"),
        "qwen2.5-0.5b": Row("cpu", 0, 16384, 16, 262144, kv_layout="split"),
        "llama3.2-1b": Row("cpu", 0, 16384, 16, 262144, kv_layout="split"),
        "gemma3-4b": Row("cpu", 0, 16384, 16, 32768),
        "qwen2.5-7b": Row("cpu", 0, 16384, 16, 32768),
        "llama3.1-8b": Row("cpu", 0, 16384, 16, 32768),
        "gemma2-9b": Row("cpu", 0, 8192, 16, 16384),
        "deepseek-v2-lite": Row("cpu", 0, 16384, 16, 32768),
        "qwen3-32b": Row("cpu", 0, 16384, 16, 32768),
        "mixtral-8x7b": Row("cpu", 0, 16384, 16, 32768),
        "llama3.1-70b": Row("cpu", 0, 16384, 16, 32768),
        "mamba-2.8b": Row("cpu", 0, 8192, 16, 16384),
        "nomic-embed": Row("cpu", 0, 2048, 16, 2048),
    },
}

CASES = [(name, model) for name, rows in EXPECTED.items() for model in rows]


@pytest.mark.parametrize(("name", "model"), CASES, ids=[f"{name}-{model}" for name, model in CASES])
def test_plan(name: str, model: str) -> None:
    decided = plan(machine(name), GGUF_MODELS[model], Settings())
    assert decided.engine == "llama.cpp"
    assert decided.threads == THREADS[name]
    assert EXPECTED[name][model] == Row(
        devices=" ".join(decided.devices),
        gpu_layers=decided.gpu_layers,
        context=decided.context,
        parallel=decided.parallel,
        kv_cells=decided.kv_cells,
        fits=decided.fits,
        kv_type=decided.kv_type,
        kv_layout=decided.kv_layout,
    )


def test_every_described_machine_has_its_rows() -> None:
    assert tuple(sorted(EXPECTED)) == NAMES
    assert all(rows.keys() == GGUF_MODELS.keys() for rows in EXPECTED.values())
