from __future__ import annotations

import pytest

from llmserve.llama.step_budget import ATTENTION_TILE, LONGEST_GAP_SECONDS, SMALLEST_CHUNK, StepBudget


def measured(decode: float, prefill_per_token: float) -> StepBudget:
    budget = StepBudget(512)
    for _ in range(30):
        budget.observe(4, 0, decode)
        budget.observe(0, 100, 100 * prefill_per_token)
    return budget


def test_nobody_writing_means_a_whole_batch() -> None:
    assert measured(0.01, 0.001).prefill_tokens(0, 3) == 512


def test_before_anything_is_known_a_step_is_whole() -> None:
    assert StepBudget(512).prefill_tokens(4, 1) == 508


@pytest.mark.parametrize(
    ("decode", "per_token", "expected"),
    [
        (0.02, 0.002, 40),  # 80 ms are left of the tolerated 100
        (0.2, 0.002, 100),  # a slow machine may double its gap
        (0.001, 0.00001, 508),  # a fast one is bound by the batch
        (0.05, 1.0, SMALLEST_CHUNK),  # a prompt always moves on
    ],
)
def test_the_gap_of_running_streams_bounds_the_prompt(decode: float, per_token: float, expected: int) -> None:
    assert measured(decode, per_token).prefill_tokens(4, 1) == pytest.approx(expected, rel=0.05)


def test_a_mixed_step_teaches_the_cost_of_prompts() -> None:
    budget = measured(0.02, 0.002)
    for _ in range(30):
        budget.observe(4, 40, 0.02 + 40 * 0.004)
    assert budget.prefill_tokens(4, 1) == pytest.approx(20, rel=0.1)


def test_the_more_prompts_wait_the_longer_a_gap_may_be_up_to_a_bound() -> None:
    budget = measured(0.02, 0.002)
    one, three, many = (budget.prefill_tokens(4, prompts) for prompts in (1, 3, 1000))
    assert one < three < many < 512 - 4
    assert many == pytest.approx((LONGEST_GAP_SECONDS - 0.02) / 0.002, rel=0.05)


def test_what_a_short_gap_completes_is_not_cut() -> None:
    budget = measured(0.02, 0.002)
    whole = int(LONGEST_GAP_SECONDS / 0.002) - 5
    assert budget.uncut(whole) == whole
    assert budget.uncut(whole + 10) == ATTENTION_TILE


def test_a_tile_of_attention_is_not_cut_where_it_does_not_take_too_long() -> None:
    fast = LONGEST_GAP_SECONDS / ATTENTION_TILE
    assert measured(0.02, 0.9 * fast).uncut(3000) == ATTENTION_TILE
    assert measured(0.02, 1.1 * fast).uncut(3000) == 0
    assert measured(0.02, 0.9 * fast).uncut(20) == 20
