"""The embedding thread: takes every text that waits, packs, computes, and hands the results to the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmserve.errors import LlmserveError
from llmserve.llama.engine import Counters, EngineFailed
from llmserve.llama.step_thread import StepThread
from llmserve.llama.text_queue import TextJob, TextQueue

Rows = npt.NDArray[np.float32]


class Encoder(Protocol):
    """What the embedder needs of a runner: llama.cpp's, or a fake one in tests."""

    batch: int
    sequences: int

    def encode(self, texts: Sequence[Sequence[int]]) -> Rows: ...


@dataclass(eq=False, slots=True)
class EmbeddingJob(TextJob):
    """One request's texts. `deliver` is called once, on the event loop: with a row for each text, or with an error."""

    deliver: Callable[[Rows | LlmserveError], None]
    rows: list[Rows | None] = field(init=False)
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = [None] * len(self.texts)
        self.missing = len(self.texts)

    @property
    def over(self) -> bool:
        """Whether nothing will be delivered any more."""
        return self.missing == 0

    def put(self, place: int, row: Rows) -> bool:
        """Keep the row of one text; whether it was the last that was missing."""
        self.rows[place] = row
        self.missing -= 1
        return self.missing == 0


class Embedder(StepThread[EmbeddingJob]):
    """Owns the encoder; runs it in a thread of its own from `start` to `close`.

    `post` hands a callable to the event loop (`loop.call_soon_threadsafe`). `submit` and `cancel` may be called from
    any thread and return at once. Texts of all requests share a step of up to `step_tokens` tokens; a longer text has
    one of its own.
    """

    def __init__(
        self, encoder: Encoder, step_tokens: int, post: Callable[[Callable[[], None]], Any], name: str = "embedder"
    ) -> None:
        super().__init__(name)
        self._encoder = encoder
        self._step_tokens = min(step_tokens, encoder.batch)
        self._post = post
        self._queue: TextQueue[EmbeddingJob] = TextQueue()
        self.counters = Counters()
        self.running = 0

    @property
    def waiting(self) -> int:
        """Texts that are not computed yet."""
        return self._queue.waiting

    @property
    def waiting_tokens(self) -> int:
        return self._queue.waiting_tokens

    # --- everything below runs in the embedding thread ---

    def _nothing_to_compute(self) -> bool:
        return not self._queue

    def _accept(self, job: EmbeddingJob) -> None:
        self._queue.add(job)

    def _withdraw(self, job: EmbeddingJob) -> None:
        if not job.over:
            self.counters.cancelled += 1
            self._drop(job)

    def _drop(self, job: EmbeddingJob) -> None:
        job.missing = 0
        self._queue.drop(job)

    def _step(self) -> None:
        batch = self._queue.next_batch(self._step_tokens, self._encoder.sequences)
        texts = [job.texts[place] for job, place in batch]
        self.running = len(batch)
        before = time.monotonic()
        try:
            rows = self._encoder.encode(texts)
        except EngineFailed as error:
            for job in {job for job, _ in batch}:
                self._fail(job, error)
        else:
            self._hand_out(batch, rows)
        self.counters.steps += 1
        self.counters.step_seconds += time.monotonic() - before
        self.counters.prompt_tokens += sum(map(len, texts))
        self.running = 0

    def _hand_out(self, batch: Sequence[tuple[EmbeddingJob, int]], rows: Rows) -> None:
        for (job, place), row in zip(batch, rows, strict=True):
            if not np.isfinite(row).all():
                self._fail(job, EngineFailed("the model computed something that is not a number"))
            elif not job.over and job.put(place, row):
                self._post(partial(job.deliver, np.stack([row for row in job.rows if row is not None])))

    def _fail(self, job: EmbeddingJob, error: LlmserveError) -> None:
        if not job.over:
            self._drop(job)
            self._post(partial(job.deliver, error))
