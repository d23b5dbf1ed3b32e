"""What is tried when a plan fails, and that the user's own word counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmserve.fleet.fallback import Wish, described, option
from llmserve.settings import Settings
from llmserve.types import EnginePlan
from tests.fleet.fakes import GIB, fake_memory, fake_plan

GPU = replace(fake_plan(), devices=("cuda:0",), gpu_layers=4, context=16384)
CPU = replace(fake_plan(), context=16384)
VLLM = replace(GPU, engine="vllm", gpu_layers=0)


@pytest.mark.parametrize(
    ("plan", "settings", "following"),
    [
        (GPU, Settings(), Wish(Settings(gpu_layers=0))),
        (GPU, Settings(gpu_layers=4), None),
        (CPU, Settings(), None),
        (VLLM, Settings(), None),
    ],
)
def test_the_processor_comes_after_a_gpu(plan: EnginePlan, settings: Settings, following: Wish | None) -> None:
    assert Wish(settings).after(plan, out_of_memory=False) == following


def test_a_plan_shrinks_twice_and_then_leaves_the_gpu() -> None:
    wish: Wish | None = Wish(Settings())
    for shrinks in (1, 2):
        assert wish is not None
        wish = wish.after(GPU, out_of_memory=True)
        assert wish == Wish(Settings(), GPU, shrinks)
    assert wish is not None
    wish = wish.after(GPU, out_of_memory=True)
    assert wish == Wish(Settings(gpu_layers=0), None, 2)
    assert wish.after(CPU, out_of_memory=True) is None


def test_what_differs_is_said() -> None:
    assert option(GPU) == "llama.cpp on cuda:0"
    assert described(CPU, GPU, "it crashed") == "llama.cpp on cpu instead of llama.cpp on cuda:0: it crashed"
    large, small = (replace(CPU, memory=(fake_memory("ram", size * GIB),)) for size in (3, 2))
    assert described(small, large, "no memory") == "2.0 instead of 3.0 GiB of memory: no memory"
