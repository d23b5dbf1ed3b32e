"""Sequences with different adapters take turns: nobody starves, and nothing that one computed serves another."""

from __future__ import annotations

import pytest

from llmserve.llama.kv_cache import WORTHWHILE_PREFIX
from llmserve.llama.sequence import Phase
from llmserve.llama.turns import MOST_SECONDS, MOST_STEPS, Turns
from tests.llama.schedule_bench import BATCH, Bench, alone, limits


def test_a_turn_ends_after_so_many_steps_and_not_before() -> None:
    turns = Turns()
    order = []
    for _ in range(3 * MOST_STEPS):
        order.append(turns.choose({0, 2, 5}))
        turns.took(0.0)
    assert order == [0] * MOST_STEPS + [2] * MOST_STEPS + [5] * MOST_STEPS
    assert turns.choose({0, 2, 5}) == 0


def test_a_turn_of_slow_steps_ends_after_one() -> None:
    turns = Turns()
    order = []
    for _ in range(4):
        order.append(turns.choose({0, 1}))
        turns.took(MOST_SECONDS)
    assert order == [0, 1, 0, 1]


def test_who_is_alone_goes_on_and_others_wait_for_one_turn_at_most() -> None:
    turns = Turns()
    for _ in range(3 * MOST_STEPS + 2):
        assert turns.choose({1}) == 1
        assert turns.choose({1, 2}) == 1, "who comes in the middle of a step changes nothing of it"
        turns.took(0.0)
    order = []
    for _ in range(MOST_STEPS):
        order.append(turns.choose({1, 2}))
        turns.took(0.0)
    assert order == [1] * (MOST_STEPS - 2) + [2] * 2


@pytest.mark.parametrize("split", [False, True])
def test_texts_with_different_adapters_are_what_they_are_alone(split: bool) -> None:
    bench = Bench(limits(parallel=6, slots=12, cells=1200), split)
    prompt = list(range(30))
    sequences = [bench.add(prompt, 20, adapter=adapter) for adapter in (0, 1, 2, 0, 1, 2)]
    bench.run()
    for sequence in sequences:
        assert sequence.tokens == alone(prompt, 20, sequence.adapter)
    # The second of each adapter goes on from the first's prompt, and never from another adapter's.
    assert [sequence.cached for sequence in sequences] == [0, 0, 0, 29, 29, 29]


def test_a_prefix_comes_back_from_the_shelf_to_its_own_adapter_alone() -> None:
    bench = Bench(limits(parallel=1, slots=1, cells=100, shelf=400, worth_saving=20), split=True)
    system = [50 + n % 9 for n in range(40)]
    bench.add([*system, 1], 2, adapter=1)
    bench.run()
    bench.add([7] * 30, 2)
    bench.run()
    other, own = bench.add([*system, 2], 4, adapter=2), bench.add([*system, 2], 4, adapter=1)
    bench.run()
    assert (other.cached, own.cached) == (0, 40)
    assert other.tokens == alone([*system, 2], 4, 2)
    assert own.tokens == alone([*system, 2], 4, 1)


def test_one_adapters_flood_keeps_no_other_from_writing() -> None:
    bench = Bench(limits(parallel=8, slots=16, cells=4000))
    flood = [bench.add([n, n], 100, adapter=1) for n in range(7)]
    for _ in range(20):
        bench.step()
    single = bench.add([40, 41], 10)
    seen = len(bench.batches)
    while single.generated < 10:
        bench.step()
    # Its prompt and its ten tokens take two turns, before each of which the flood has one at most.
    assert len(bench.batches) - seen <= 10 + 2 * MOST_STEPS
    bench.run()
    assert [sequence.tokens for sequence in flood] == [alone([n, n], 100, 1) for n in range(7)]


def test_the_oldest_prompt_of_each_adapter_moves_on() -> None:
    """Turns of one step for three adapters: the step in three that is the oldest's must be one of its own adapter."""
    bench = Bench(limits(parallel=24, slots=48, cells=8000), seconds_per_token=0.06)
    long = [bench.add([adapter] * 150, 1, adapter=adapter) for adapter in range(3)]
    for n in range(60):
        if all(sequence.generated for sequence in long):
            break
        for adapter in range(3):
            bench.add([10 + n % 40, n // 40, adapter, *[3] * (BATCH - 3)], 1, adapter=adapter)
        for _ in range(3):
            bench.step()
    assert [sequence.generated for sequence in long] == [1, 1, 1], "a new short prompt each time kept none waiting"


def test_a_prompt_does_not_wait_for_the_same_one_of_another_adapter() -> None:
    bench = Bench(limits(parallel=4, slots=8, cells=2000))
    prompt = list(range(100))
    first, same, other = bench.add(prompt, 2), bench.add(prompt, 2), bench.add(prompt, 2, adapter=1)
    bench.step()
    assert (first.phase, same.phase, other.phase) == (Phase.RUNNING, Phase.WAITING, Phase.RUNNING)
    bench.run()
    assert (same.cached or 0) >= 99 - WORTHWHILE_PREFIX
    assert other.cached == 0


def test_a_prompt_of_another_adapter_is_no_bridge_between_two_writers() -> None:
    bench = Bench(limits(parallel=4, slots=4, cells=2000), split=True, seconds_per_token=0.01)
    left, middle, right = (bench.add([n, n], 90 if n != 1 else 6) for n in range(3))
    while middle.generated < 3:
        bench.step()  # so that it is known what a step without prompts takes
    own = bench.add([8] * 300, 2)
    while middle.phase is not Phase.DONE:
        bench.step()
    between = bench.add([9] * 200, 2, adapter=1)
    bench.step()
    assert [sequence.slot for sequence in (left, between, right, own)] == [0, 1, 2, 3]
    while own.generated == 0 or between.generated == 0:
        bench.step()  # which the runner checks: one adapter per step
    bench.run()
    assert own.tokens == alone([8] * 300, 2)
    assert between.tokens == alone([9] * 200, 2, 1)
    assert [left.tokens, right.tokens] == [alone([n, n], 90) for n in (0, 2)]


def test_streams_of_another_adapter_bound_how_much_of_a_prompt_is_computed_at_once() -> None:
    bench = Bench(limits(parallel=4, slots=8, cells=2000), seconds_per_token=0.02)
    stream = bench.add([1, 1], 200, adapter=1)
    while stream.generated < 5:
        bench.step()
    bench.add([2] * 16, 1, adapter=1)
    bench.step()
    bench.step()
    prompt = bench.add([3] * 200, 1)
    seen = len(bench.batches)
    while prompt.pending > 1 and not prompt.generated:
        bench.step()
    counts = [chunk.count for chunks in bench.batches[seen:] for chunk in chunks if chunk.sequence is prompt]
    assert max(counts[:-1]) < 32, "less than a step of the prompt alone would take"


def test_slots_of_an_adapter_lie_side_by_side() -> None:
    bench = Bench(limits(parallel=8, slots=8, cells=1600), split=True)
    sequences = [bench.add([n, n], 60, adapter=n % 2) for n in range(6)]
    while any(sequence.generated < 2 for sequence in sequences):
        bench.step()
    for adapter in (0, 1):
        slots = sorted(
            sequence.slot for sequence in sequences if sequence.adapter == adapter if sequence.slot is not None
        )
        assert slots == list(range(slots[0], slots[0] + 3))
    bench.run()
