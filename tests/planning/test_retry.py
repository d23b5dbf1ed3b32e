"""The smaller plan after one that ran out of memory."""

from __future__ import annotations

import pytest

from llmserve.planning.plan import plan
from llmserve.planning.retry import MOST_RETRIES, shrink
from llmserve.settings import Settings
from llmserve.types import EnginePlan
from tests.planning.machines import NAMES, machine
from tests.planning.models import GGUF_MODELS, LLAMA31_8B, QWEN3_30B_A3B


def wanted(decided: EnginePlan, *, gpus: bool) -> int:
    return sum(entry.total for entry in decided.memory if not gpus or entry.device != "ram")


def test_a_gpu_that_had_less_gets_less() -> None:
    hardware = machine("rtx_3060_12gb")
    first = plan(hardware, LLAMA31_8B, Settings())
    second = shrink(first, hardware, LLAMA31_8B, Settings())
    assert second is not None
    assert wanted(second, gpus=True) <= 0.85 * wanted(first, gpus=True)
    assert second.reason.endswith("because that ran out of memory")
    third = shrink(second, hardware, LLAMA31_8B, Settings())
    assert third is not None
    assert wanted(third, gpus=True) < wanted(second, gpus=True)


def test_experts_leave_the_gpu_first() -> None:
    hardware = machine("rtx_3060_12gb")
    first = plan(hardware, QWEN3_30B_A3B, Settings())
    second = shrink(first, hardware, QWEN3_30B_A3B, Settings())
    assert second is not None
    assert second.experts_in_ram > first.experts_in_ram
    assert second.gpu_layers == first.gpu_layers == 49


def test_ram_runs_out_where_no_gpu_has_memory_of_its_own() -> None:
    for name in ("laptop_no_gpu", "apple_m2_16gb"):
        hardware = machine(name)
        first = plan(hardware, LLAMA31_8B, Settings())
        second = shrink(first, hardware, LLAMA31_8B, Settings())
        assert second is not None
        assert wanted(second, gpus=False) < wanted(first, gpus=False)


def test_what_settings_fix_stays_fixed_and_may_leave_nothing_to_shrink() -> None:
    hardware = machine("rtx_3060_12gb")
    fixed = Settings(context=4096, gpu_layers=33, parallel=1, kv_type="f16")
    assert shrink(plan(hardware, LLAMA31_8B, fixed), hardware, LLAMA31_8B, fixed) is None


@pytest.mark.parametrize("name", NAMES)
def test_every_retry_takes_less_than_the_one_before(name: str) -> None:
    hardware = machine(name)
    unified = any(gpu.unified_memory for gpu in hardware.gpus)
    for model in GGUF_MODELS.values():
        current = plan(hardware, model, Settings())
        for _ in range(MOST_RETRIES):
            smaller = shrink(current, hardware, model, Settings())
            if smaller is None:
                break
            gpus = current.gpu_layers > 0 and not unified
            assert wanted(smaller, gpus=gpus) < wanted(current, gpus=gpus)
            current = smaller
