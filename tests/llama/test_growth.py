"""A cache that is opened small grows when sequences wait, and nobody's text changes by it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmserve.errors import InvalidModel, LlmserveError
from llmserve.llama.growth import RETRY_SECONDS, Growth
from llmserve.llama.kv_cache import Limits, UnifiedCache
from tests.llama.conftest import CONTEXT, WorkerProcess, running, tiny_plan
from tests.llama.schedule_bench import Bench, alone
from tests.llama.ties import assert_same_but_for_ties
from tests.support import until

LONGEST = 64


def limits(slots: int) -> Limits:
    return Limits(slots, slots, slots * LONGEST, slots * LONGEST)


class GrowingBench(Bench):
    """Two streams that may become three, and six. What the growth asks of the engine's thread waits in `asked`."""

    def __init__(self) -> None:
        super().__init__(limits(2), split=True)
        self.asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.now = 0.0
        self.openings = 0
        self.refusal: LlmserveError | None = None
        self.growth = Growth(self, self.scheduler, [limits(3), limits(6)], self.asked.put, lambda: self.now)

    def open_context(self, slots: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        self.openings += 1
        if self.refusal is not None:
            raise self.refusal
        return slots

    def move_to(self, context: int) -> None:
        self.runner.slots += [[] for _ in range(context - len(self.runner.slots))]
        self.runner.capacity = context * LONGEST

    def step(self) -> bool:
        computed = super().step()
        self.growth.consider()
        return computed

    def do_what_was_asked(self) -> None:
        """Wait for the thread, as the engine's loop does between two steps."""
        self.asked.get(timeout=20)()


def test_sequences_that_wait_make_it_grow_and_running_ones_go_on() -> None:
    bench = GrowingBench()
    prompts = [[number, number + 1] for number in range(6)]
    sequences = [bench.add(prompt, 20) for prompt in prompts]
    bench.step()
    assert (bench.scheduler.running, bench.scheduler.waiting) == (2, 4)
    bench.do_what_was_asked()
    bench.step()
    assert (bench.scheduler.running, bench.scheduler.waiting) == (6, 0)
    bench.run()
    assert [sequence.tokens for sequence in sequences] == [alone(prompt, 20) for prompt in prompts]
    assert bench.openings == 1


def test_it_grows_no_further_than_is_wanted_and_again_later() -> None:
    bench = GrowingBench()
    sequences = [bench.add([number], 20) for number in range(3)]
    bench.step()
    bench.do_what_was_asked()
    assert bench.scheduler.cache.limits == limits(3)
    sequences += [bench.add([number], 20) for number in range(3, 5)]
    bench.step()
    bench.do_what_was_asked()
    assert bench.scheduler.cache.limits == limits(6)
    bench.run()
    assert [sequence.tokens for sequence in sequences] == [alone([number], 20) for number in range(5)]
    assert bench.openings == 2


def test_it_stays_small_for_those_who_find_a_place() -> None:
    bench = GrowingBench()
    for number in range(5):
        bench.add([number], 5)
        bench.add([number, number], 5)
        bench.run()
    assert bench.openings == 0
    assert bench.scheduler.cache.limits == limits(2)


def test_finished_sequences_stay_where_they_are() -> None:
    bench = GrowingBench()
    finished = bench.add(list(range(30)), 5)
    bench.add([40], 10)
    cancelled = bench.add([41], 10)
    bench.step()
    bench.scheduler.finish(cancelled)
    bench.run()
    bench.do_what_was_asked()
    assert bench.scheduler.cache.limits == limits(3)
    before = bench.runner.computed
    bench.add(finished.tokens, 1)
    bench.run()
    assert bench.runner.computed - before == 1


@pytest.mark.parametrize("fails", ["opening", "moving"])
def test_a_failure_leaves_the_small_cache_and_is_tried_again_later(
    fails: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = GrowingBench()
    no_memory = InvalidModel("no memory")
    if fails == "opening":
        bench.refusal = no_memory
    else:

        def refuse(_: int) -> None:
            raise no_memory

        monkeypatch.setattr(bench, "move_to", refuse)
    sequences = [bench.add([number], 30) for number in range(6)]
    bench.step()
    with caplog.at_level(logging.WARNING):
        bench.do_what_was_asked()
    assert "stays at 2 of 6 sequences: no memory" in caplog.text
    bench.step()
    assert bench.openings == 1
    monkeypatch.undo()
    bench.refusal = None
    bench.now = RETRY_SECONDS
    bench.step()
    bench.do_what_was_asked()
    bench.step()
    assert bench.scheduler.running == 6
    bench.run()
    assert [sequence.tokens for sequence in sequences] == [alone([number], 30) for number in range(6)]


def test_a_shared_pool_does_not_grow() -> None:
    cache = UnifiedCache(Limits(2, 3, 64, 64))
    with pytest.raises(ValueError, match="does not grow"):
        cache.grow(Limits(4, 5, 128, 128))


# --- the real engine ---


@pytest.fixture(scope="module")
def workers(tiny_model: Path) -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    """One that is opened with two of eight streams, and one with all."""
    plans = [tiny_plan(kv_layout="split", kv_cells=8 * CONTEXT, first_streams=streams) for streams in (2, 8)]
    with running(tiny_model, *plans) as [growing, whole]:
        yield growing, whole


def test_texts_that_a_growing_cache_moved_are_the_same(workers: tuple[WorkerProcess, WorkerProcess]) -> None:
    growing, whole = workers
    assert (growing.stats()["slots"], whole.stats()["slots"]) == (2, 8)
    prompts = [f"hello world {'the in ' * times}" for times in range(8)]
    moved, still = (worker.complete(prompts, max_tokens=200, logprobs=2)["choices"] for worker in (growing, whole))
    until(lambda: growing.stats()["slots"] == 8)
    assert len(moved) == len(prompts)
    for one, other in zip(moved, still, strict=True):
        assert_same_but_for_ties(one["logprobs"], other["logprobs"])
