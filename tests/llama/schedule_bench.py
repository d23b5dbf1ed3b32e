"""A scheduler over the fake runner, which a test steps by hand; every step is held to what must always be true."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmserve.llama.batch import Chunk, Drop, Trim
from llmserve.llama.draft import Drafter, verified
from llmserve.llama.kv_cache import Limits, UnifiedCache
from llmserve.llama.scheduler import Scheduler
from llmserve.llama.sequence import Phase, Sequence
from llmserve.llama.speculation import MOST_DRAFTED, Experience, Speculation
from llmserve.llama.split_cache import SplitCache
from llmserve.llama.step_budget import StepBudget
from llmserve.llama.turns import MOST_STEPS
from tests.llama.fake_runner import FakeRunner, next_token

BATCH = 32


@dataclass
class Bench:
    """A scheduler over a fake runner, with a clock that says what a step cost."""

    limits: Limits
    split: bool = False
    seconds_per_token: float = 0.001
    runner: FakeRunner = field(init=False)
    scheduler: Scheduler = field(init=False)
    batches: list[list[Chunk]] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    # Of each running sequence, by age and preemptions, how many steps of other adapters it has seen since its own.
    resting: Counter[tuple[int, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.runner = FakeRunner(
            self.limits.slots, self.limits.cells, BATCH, split=self.split, cuttable=self.limits.cuttable
        )
        cache = SplitCache(self.limits) if self.split else UnifiedCache(self.limits)
        self.scheduler = Scheduler(cache, StepBudget(BATCH))

    def add(
        self,
        prompt: list[int],
        write: int,
        *,
        streamed: bool = False,
        speculation: Speculation | None = None,
        adapter: int = 0,
    ) -> Sequence:
        longest = len(prompt) + write
        sequence = Sequence(list(prompt), len(prompt), longest, streamed, speculation=speculation, adapter=adapter)
        self.scheduler.add(sequence)
        self.sequences.append(sequence)
        return sequence

    def step(self) -> bool:
        batch = self.scheduler.next_batch()
        if batch is None:
            return False
        logits = self.runner.decode(batch)
        if batch.chunks:
            self._check_turn(batch.adapter)
        self.batches.append(batch.chunks)
        self.scheduler.commit(batch, self.seconds_per_token * sum(chunk.count for chunk in batch.chunks))
        end = 0
        for chunk in batch.chunks:
            end += chunk.rows
            if chunk.sample:
                self._write(chunk, logits[end - 1 - len(chunk.draft) : end])
        assert self.scheduler.cache.cells_used == self.runner.used + self._freed_but_not_dropped()
        return True

    def _check_turn(self, adapter: int) -> None:
        running = [sequence for sequence in self.sequences if sequence.phase is Phase.RUNNING]
        others = len({sequence.adapter for sequence in self.sequences}) - 1
        waited = self.resting
        self.resting = Counter()
        for sequence in running:
            if sequence.adapter != adapter:
                place = sequence.age, sequence.preemptions
                self.resting[place] = waited[place] + 1
                assert self.resting[place] <= others * MOST_STEPS, "no adapter waits for more than a round"

    def _write(self, chunk: Chunk, rows: npt.NDArray[np.float32]) -> None:
        sequence = chunk.sequence
        before = len(sequence.tokens)
        for token in verified(rows, chunk.draft, lambda row: int(row.argmax())):
            sequence.tokens.append(token)
            if len(sequence.tokens) >= sequence.max_length:
                break
        self.scheduler.settle(chunk, len(sequence.tokens) - before - 1)
        if len(sequence.tokens) >= sequence.max_length:
            self.scheduler.finish(sequence)

    def _freed_but_not_dropped(self) -> int:
        """Cells that were given up in this step, and leave the cache with the next batch."""
        lengths = {slot: len(cells) for slot, cells in enumerate(self.runner.slots)}
        for operation in self.scheduler.cache.operations:
            if isinstance(operation, Drop):
                lengths[operation.slot] = 0
            elif isinstance(operation, Trim):
                lengths[operation.slot] = min(lengths[operation.slot], operation.length)
        kept = {cell for slot, cells in enumerate(self.runner.slots) for cell, _ in cells[: lengths[slot]]}
        return len(kept) - self.runner.used

    def run(self) -> None:
        while not self.scheduler.idle:
            assert self.step(), "work is left, so there is something to compute"


class Guessing(Speculation):
    """Drafts whatever they cost, right for a random number of tokens."""

    def __init__(self, rng: random.Random, adapter: int = 0) -> None:
        super().__init__(Drafter(), Experience())
        self._rng = rng
        self._adapter = adapter

    def draft(self, tokens: Collection[int], price: float, most: int = MOST_DRAFTED) -> list[int]:
        right = alone(list(tokens), self._rng.randrange(5), self._adapter)[len(tokens) :]
        wrong = [self._rng.randrange(50) for _ in range(self._rng.randrange(3))]
        return [*right, *wrong][: max(0, most)]


def alone(prompt: list[int], write: int, adapter: int = 0) -> list[int]:
    tokens = list(prompt)
    for _ in range(write):
        tokens.append(next_token(tokens, adapter))
    return tokens


def limits(**changes: int | bool) -> Limits:
    values: dict[str, int | bool] = {"parallel": 4, "slots": 8, "cells": 256, "idle_cells": 256}
    return Limits(**{**values, **changes})  # type: ignore[arg-type]
