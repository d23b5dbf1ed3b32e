"""Texts that wait to be embedded, and which of them are computed next. Pure: no engine, no clock, no thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar


@dataclass(eq=False, slots=True)
class TextJob:
    """The texts of one request, as token ids. `taken` counts those that a batch has been made of."""

    texts: Sequence[Sequence[int]]
    taken: int = field(default=0, init=False)

    @property
    def exhausted(self) -> bool:
        return self.taken == len(self.texts)


J = TypeVar("J", bound=TextJob)


class TextQueue(Generic[J]):
    """Takes one text of each waiting request in turn, so that a large request delays a small one by one batch.

    `waiting` and `waiting_tokens` are the texts that no batch has been made of, and their tokens.
    """

    def __init__(self) -> None:
        self._jobs: deque[J] = deque()
        # Plain numbers, which another thread may read while this one changes the queue.
        self.waiting = 0
        self.waiting_tokens = 0

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: J) -> None:
        if not job.exhausted:
            self._jobs.append(job)
            self._count(job.texts[job.taken :], 1)

    def drop(self, job: J) -> None:
        """Forget what is left of `job`. Harmless for one that is not here."""
        if job in self._jobs:
            self._jobs.remove(job)
            self._count(job.texts[job.taken :], -1)

    def next_batch(self, most_tokens: int, most_texts: int) -> list[tuple[J, int]]:
        """The next texts, each as its job and its place there: within both bounds, but always at least one.

        A text that does not fit any more ends the batch and opens the next one, so that long texts wait no longer than
        short ones.
        """
        batch: list[tuple[J, int]] = []
        tokens = 0
        while self._jobs and len(batch) < most_texts:
            job = self._jobs[0]
            text = job.texts[job.taken]
            tokens += len(text)
            if batch and tokens > most_tokens:
                break
            batch.append((job, job.taken))
            job.taken += 1
            self._count([text], -1)
            self._jobs.popleft()
            if not job.exhausted:
                self._jobs.append(job)
        return batch

    def _count(self, texts: Sequence[Sequence[int]], sign: int) -> None:
        self.waiting += sign * len(texts)
        self.waiting_tokens += sign * sum(map(len, texts))
