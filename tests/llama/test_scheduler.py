from __future__ import annotations

import random

import pytest

from llmserve.llama.engine import OutOfRoom
from llmserve.llama.sequence import Phase, Sequence
from tests.llama.schedule_bench import Bench, Guessing, alone, limits


def test_every_running_sequence_writes_in_every_step() -> None:
    bench = Bench(limits())
    writers = [bench.add([n, n + 1], 20) for n in range(3)]
    while any(sequence.generated == 0 for sequence in writers):
        bench.step()
    long = bench.add(list(range(60)), 2)
    bench.step()
    chunks = bench.batches[-1]
    assert {chunk.sequence for chunk in chunks} == {*writers, long}
    assert [chunk.count for chunk in chunks[:3]] == [1, 1, 1]


def test_prompts_share_a_step_and_short_ones_are_not_stuck_behind_a_long_one() -> None:
    bench = Bench(limits())
    bench.add([1, *range(100)], 1)
    short = bench.add([2, 3, 4], 1)
    bench.step()
    assert short.generated == 1


def test_a_shared_prefix_is_computed_once_even_by_prompts_that_arrive_together() -> None:
    bench = Bench(limits())
    system = list(range(50))
    sequences = [bench.add([*system, 60 + n], 3) for n in range(4)]
    bench.run()
    assert [sequence.cached for sequence in sequences] == [0, 50, 50, 50]
    assert bench.runner.computed == 51 + 3 * 1 + 4 * 2


def test_the_next_turn_of_a_chat_reuses_the_last_one_and_takes_its_place() -> None:
    bench = Bench(limits())
    first = bench.add(list(range(20)), 5)
    bench.run()
    turn = bench.add([*first.tokens, 7, 8], 5)
    bench.run()
    assert turn.cached == 24  # the last written token was never computed
    assert turn.tokens == alone([*first.tokens, 7, 8], 5)


@pytest.mark.parametrize("split", [False, True])
def test_memory_that_cannot_be_cut_is_gone_on_from_only_whole(split: bool) -> None:
    bench = Bench(limits(cuttable=False, worth_keeping=0), split)
    first = bench.add(list(range(20)), 3)
    bench.run()
    turn = bench.add([*first.tokens[:22], 1, 2], 3)
    bench.run()
    assert turn.cached == 22
    other = bench.add([*first.tokens[:21], 3], 3)
    bench.run()
    assert other.cached == 0
    assert other.tokens == alone([*first.tokens[:21], 3], 3)


def test_the_youngest_gives_way_and_its_text_is_the_same() -> None:
    bench = Bench(limits(cells=64, idle_cells=64))
    prompts = [[n] * 10 for n in range(4)]
    sequences = [bench.add(prompt, 40) for prompt in prompts]
    bench.run()
    assert bench.scheduler.preemptions > 0
    assert sequences[0].preemptions == 0
    for prompt, sequence in zip(prompts, sequences, strict=True):
        assert sequence.tokens == alone(prompt, 40)


def test_idle_sequences_keep_no_more_than_they_may_but_the_newest_stays_whole() -> None:
    bench = Bench(limits(idle_cells=30))
    for n in range(5):
        bench.add([n] * 12, 2)
        bench.run()
    assert bench.scheduler.cache.cells_used <= 30
    big = bench.add(list(range(60)), 2)
    bench.run()
    again = bench.add([*big.tokens[:60], 1], 1)
    bench.run()
    assert again.cached == 60


def test_a_short_idle_sequence_makes_way_unless_the_next_request_goes_on_from_it() -> None:
    bench = Bench(limits(worth_keeping=30))
    short = bench.add(list(range(20)), 3)
    bench.run()
    turn = bench.add([*short.tokens, 1], 3)
    bench.run()
    assert turn.cached == 22
    long = bench.add([9] * 40, 2)
    bench.run()
    bench.add([8] * 5, 2)
    bench.run()
    forgotten = bench.add([*turn.tokens, 2], 1)
    bench.run()
    assert forgotten.cached == 0
    again = bench.add([*long.tokens[:40], 3], 1)
    bench.run()
    assert again.cached == 40


def test_streamed_requests_go_before_the_others() -> None:
    bench = Bench(limits(parallel=1, slots=3))
    bench.add([1, 2], 2)
    bench.step()
    quiet = bench.add([3, 4], 1)
    streamed = bench.add([5, 6], 1, streamed=True)
    bench.run()
    order = [chunk.sequence for chunks in bench.batches for chunk in chunks]
    assert order.index(streamed) < order.index(quiet)


def test_a_cancelled_sequence_leaves_at_once_in_every_phase() -> None:
    bench = Bench(limits(parallel=2, slots=4))
    writing, prefilling = bench.add([1, 2], 50), bench.add(list(range(100)), 50)
    bench.step()
    waiting = bench.add([9], 5)
    for sequence in (writing, prefilling, waiting):
        bench.scheduler.finish(sequence)
    assert bench.scheduler.idle
    assert {writing.phase, prefilling.phase, waiting.phase} == {Phase.DONE}
    other = bench.add([4, 5], 3)
    bench.run()
    assert other.tokens == alone([4, 5], 3)


def test_a_prompt_that_cannot_fit_is_refused() -> None:
    bench = Bench(limits(cells=16))
    with pytest.raises(ValueError, match="bound"):
        bench.add([1] * 10, 10)


def test_relieve_gives_up_cached_sequences_first_and_says_when_nothing_is_left() -> None:
    bench = Bench(limits())
    bench.add([1, 2, 3], 2)
    bench.run()
    running = [bench.add([n, n], 9) for n in (5, 6)]
    bench.step()
    assert bench.scheduler.relieve()
    assert bench.scheduler.running == 2
    assert bench.scheduler.relieve()
    assert bench.scheduler.running == 1
    assert running[0].phase is Phase.RUNNING
    assert not bench.scheduler.relieve()


def test_running_slots_stay_neighbours_so_that_a_step_is_one_pass() -> None:
    bench = Bench(limits(parallel=6, slots=6, cells=600), split=True)
    writers = [bench.add([n, n], 6 if n in (1, 3) else 40) for n in range(6)]
    while writers[1].phase is not Phase.DONE:
        bench.step()
    for _ in range(4):
        bench.step()
    passes = bench.runner.passes
    for _ in range(5):
        bench.step()
    assert bench.runner.passes == passes + 5
    bench.run()
    assert [writer.tokens for writer in writers] == [alone(writer.tokens[:2], writer.generated) for writer in writers]


def test_a_resting_prompt_between_writers_joins_them_with_a_token() -> None:
    bench = Bench(limits(parallel=4, slots=5, cells=2000), split=True, seconds_per_token=0.01)
    bench.add([9, 9], 5)
    bench.run()  # so that it is known what a step without prompts takes
    prompts = [[1, 1], [2] * 250, [3] * 200, [4, 4]]
    left, longer, shorter, right = sequences = [bench.add(prompt, 60) for prompt in prompts]
    while min(left.generated, right.generated) < 2:
        bench.step()
    counts = set()
    while shorter.pending > 60:
        bench.step()
        chunks = {chunk.sequence: chunk for chunk in bench.batches[-1]}
        assert chunks.keys() == set(sequences)
        counts.add(chunks[longer].count)
    # The shorter one goes first: the longer rests most of the time, but for this.
    assert 1 in counts
    bench.run()
    assert [sequence.tokens for sequence in sequences] == [alone(prompt, 60) for prompt in prompts]


def test_a_short_prompt_is_not_cut_beside_others() -> None:
    bench = Bench(limits(parallel=5, slots=5, cells=1000), split=True, seconds_per_token=0.01)
    writer = bench.add([9, 9], 60)
    while writer.generated < 3:
        bench.step()
    prompts = [[n] * 12 for n in range(4)]
    sequences = [bench.add(prompt, 3) for prompt in prompts]
    seen = len(bench.batches)
    bench.run()
    counts = [chunk.count for batch in bench.batches[seen:] for chunk in batch if chunk.sequence in sequences]
    assert [count for count in counts if count > 1] == [12] * 4
    assert [sequence.tokens for sequence in sequences] == [alone(prompt, 3) for prompt in prompts]


def test_a_stream_takes_a_copy_of_a_prefix_that_runs_elsewhere() -> None:
    bench = Bench(limits(parallel=4, slots=4, cells=400), split=True)
    stem = list(range(30))
    first = bench.add([*stem, 1], 30)
    bench.step()
    bench.step()
    second = bench.add([*stem, 2], 5)
    bench.run()
    assert (first.cached, second.cached) == (0, 30)
    assert second.tokens == alone([*stem, 2], 5)


def test_a_prefix_that_left_the_cache_comes_back_from_the_shelf() -> None:
    bench = Bench(limits(parallel=1, slots=1, cells=100, shelf=200, worth_saving=20), split=True)
    system = [50 + n % 9 for n in range(40)]
    bench.add([*system, 1], 2)
    bench.run()
    for n in range(3):
        bench.add([n] * 30, 2)
        bench.run()
    again = bench.add([*system, 2], 4)
    bench.run()
    assert again.cached == 40
    assert again.tokens == alone([*system, 2], 4)
    assert bench.scheduler.cache.shelf.used <= 200


def test_a_preempted_sequence_is_not_computed_again_where_the_shelf_has_room() -> None:
    bench = Bench(limits(cells=64, idle_cells=64, shelf=500))
    prompts = [[n] * 10 for n in range(4)]
    sequences = [bench.add(prompt, 40) for prompt in prompts]
    bench.run()
    assert bench.scheduler.preemptions > 0
    assert bench.runner.computed == sum(10 + 40 - 1 for _ in prompts)
    assert [sequence.tokens for sequence in sequences] == [alone(prompt, 40) for prompt in prompts]


@pytest.mark.parametrize("block", range(100))
def test_random_schedules_lose_nothing_and_change_no_text(block: int) -> None:
    """Arrivals, cancellations, pressure and adapters in any order: every text is what it is alone, no cell is leaked or
    shared between adapters, and none of these waits for more than a round."""
    for seed in range(100 * block, 100 * block + 100):
        _run_randomly(random.Random(seed))


def _run_randomly(rng: random.Random) -> None:
    split = rng.random() < 0.5
    adapters = rng.randrange(1, 4)
    parallel = rng.randrange(1, 6)
    cuttable = rng.random() < 0.8
    slots = parallel if split else parallel + rng.randrange(1 if cuttable else 0, 6)
    longest = rng.choice([48, 96])
    cells = longest * slots if split else rng.choice([longest, 256])
    bench = Bench(
        limits(
            cells=cells,
            idle_cells=rng.choice([0, 20, cells]),
            worth_keeping=rng.choice([0, 15]),
            parallel=parallel,
            slots=slots,
            cuttable=cuttable,
            shelf=rng.choice([0, 60, 400]),
            worth_saving=rng.choice([1, 10]),
        ),
        split,
        seconds_per_token=rng.choice([0.0001, 0.01, 0.05]),
    )
    stems = [[rng.randrange(50) for _ in range(rng.randrange(1, 30))] for _ in range(3)]
    left = rng.randrange(3, 9)
    live: list[Sequence] = []
    kept: list[tuple[Sequence, list[int], int]] = []
    while left or not bench.scheduler.idle:
        if left and (rng.random() < 0.3 or bench.scheduler.idle):
            left -= 1
            prompt = rng.choice(stems) + [rng.randrange(50) for _ in range(rng.randrange(1, 8))]
            if kept and rng.random() < 0.3:
                prompt = rng.choice(kept)[0].tokens[: longest - 10] + prompt[:5]  # the next turn of a chat
            write = rng.randrange(1, min(longest - len(prompt), 25))
            adapter = rng.randrange(adapters)
            speculation = Guessing(rng, adapter) if rng.random() < 0.5 else None
            streamed = rng.random() < 0.5
            sequence = bench.add(prompt, write, streamed=streamed, speculation=speculation, adapter=adapter)
            sequence.scores_prompt = rng.random() < 0.2
            live.append(sequence)
            kept.append((sequence, prompt, write))
        if live and rng.random() < 0.02:
            cancelled = live.pop(rng.randrange(len(live)))
            if cancelled.phase is not Phase.DONE:
                bench.scheduler.finish(cancelled)
                kept = [entry for entry in kept if entry[0] is not cancelled]
        bench.step()
    for sequence, prompt, write in kept:
        assert sequence.phase is Phase.DONE
        assert sequence.tokens == alone(prompt, write, sequence.adapter)


def test_out_of_room_in_the_fake_is_never_met_by_the_scheduler() -> None:
    bench = Bench(limits(cells=20, idle_cells=20))
    bench.runner.capacity = 10
    bench.add([1] * 15, 2)
    with pytest.raises(OutOfRoom):
        bench.run()
