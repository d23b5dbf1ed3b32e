"""What is tried when a plan fails, and that the user's own word counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmserve.fleet.fallback import Wish, described, option
from llmserve.settings import Settings
from llmserve.types import EnginePlan
from tests.fleet.fakes import fake_plan

GPU = replace(fake_plan(), devices=("cuda:0",), gpu_layers=4, context=16384)
CPU = replace(fake_plan(), context=16384)
VLLM = replace(GPU, engine="vllm", gpu_layers=0)


@pytest.mark.parametrize(
    ("plan", "settings", "out_of_memory", "expected"),
    [
        (GPU, Settings(), False, {"gpu_layers": 0}),
        (GPU, Settings(gpu_layers=4), False, None),
        (GPU, Settings(), True, {"context": 8192}),
        (GPU, Settings(context=16384), True, {"gpu_layers": 0}),
        (CPU, Settings(), False, None),
        (CPU, Settings(), True, {"context": 8192}),
        (replace(CPU, context=2048), Settings(), True, None),
        (VLLM, Settings(), False, None),
    ],
)
def test_the_next_best(
    plan: EnginePlan, settings: Settings, out_of_memory: bool, expected: dict[str, int] | None
) -> None:
    wish = Wish(settings).after(plan, out_of_memory=out_of_memory)
    assert (wish and wish.settings) == (expected and replace(settings, **expected))


def test_a_plan_shrinks_twice_and_no_more() -> None:
    plan, wish = CPU, Wish(Settings())
    for context in (8192, 4096):
        following = wish.after(plan, out_of_memory=True)
        assert following is not None
        wish, plan = following, replace(plan, context=context)
        assert wish.settings.context == context
    assert wish.after(plan, out_of_memory=True) is None


def test_what_differs_is_said() -> None:
    assert option(GPU) == "llama.cpp on cuda:0"
    assert described(CPU, GPU, "it crashed") == "llama.cpp on cpu instead of llama.cpp on cuda:0: it crashed"
    shorter = replace(CPU, context=4096)
    assert described(shorter, CPU, "no memory") == "a context of 4096 instead of 16384: no memory"
