"""The engine thread: next_batch -> decode -> sample -> commit, one message to the event loop per step."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmserve.errors import LlmserveError
from llmserve.llama.batch import Batch, Chunk
from llmserve.llama.draft import verified
from llmserve.llama.generation import Delta, Failure, FinishReason, Generation, Job, merged
from llmserve.llama.growth import Growth
from llmserve.llama.logprobs import ScoredRows, TokenScore, prompt_scores
from llmserve.llama.scheduler import Scheduler
from llmserve.llama.sequence import Sequence as TokenSequence
from llmserve.llama.step_thread import StepThread

_log = logging.getLogger(__name__)

# Text is handed to the event loop at most this often, except for first tokens and ends, which leave at once. On a small
# machine every event costs the compute threads their caches, and nobody reads faster than twenty updates a second.
DELIVERY_SECONDS = 0.05


class EngineFailed(LlmserveError):
    """A step could not be computed; the sequences in it are lost, the engine goes on."""

    default_code = "engine_error"


class Decoder(Protocol):
    """What the engine needs of a runner: llama.cpp's, or a fake one in tests."""

    def decode(self, batch: Batch) -> npt.NDArray[np.float32]: ...
    def clear(self) -> None: ...
    def abort(self) -> None:
        """From any thread: give up the batch that is being computed, if the decoder can."""


class OutOfRoom(Exception):
    """Raised by `Decoder.decode` when the cache cannot take the batch; nothing was computed."""


class Aborted(Exception):
    """Raised by `Decoder.decode` after `abort`; the cache is as if nothing had been computed."""


@dataclass(slots=True)
class Counters:
    """Totals since the start, written by the engine thread and read by anyone (each is one machine word)."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    cancelled: int = 0
    aborted_steps: int = 0
    step_seconds: float = 0.0


class Engine(StepThread[Job]):
    """Owns the decoder and the scheduler; runs them in a thread of its own from `start` to `close`.

    `post` hands a callable to the event loop (`loop.call_soon_threadsafe`). `submit` and `cancel` may be called from
    any thread and return at once; a cancelled job gets nothing more after the step that is running, and a step that is
    computed for cancelled jobs alone is given up. `growth` is asked before each step.
    """

    def __init__(
        self,
        decoder: Decoder,
        scheduler: Scheduler,
        piece: Callable[[int], bytes],
        ends: Sequence[int],
        post: Callable[[Callable[[], None]], Any],
        delivery_seconds: float = DELIVERY_SECONDS,
    ) -> None:
        super().__init__("engine")
        self._decoder = decoder
        self._scheduler = scheduler
        self._piece = piece
        self._ends = frozenset(ends)
        self._post = post
        self._owners: dict[TokenSequence, tuple[Job, Generation]] = {}
        self._outbox: list[tuple[Job, Delta | Failure]] = []
        self._delivery_seconds = delivery_seconds
        self._delivered = 0.0
        self._urgent = False
        # The jobs that the running step is computed for, less those that were cancelled meanwhile.
        self._wanting: set[Job] = set()
        self.growth: Growth | None = None
        self.counters = Counters()

    @property
    def running(self) -> int:
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        return self._scheduler.waiting

    @property
    def slots(self) -> int:
        """Sequences, running and finished ones, that the cache has room for now."""
        return self._scheduler.cache.limits.slots

    @property
    def cells_used(self) -> int:
        return self._scheduler.cache.cells_used

    @property
    def preemptions(self) -> int:
        return self._scheduler.preemptions

    @property
    def restored_from_ram(self) -> int:
        return self._scheduler.cache.restored_from_ram

    @property
    def restored_from_disk(self) -> int:
        return self._scheduler.cache.restored_from_disk

    def cancel(self, job: Job) -> None:
        super().cancel(job)
        wanting = self._wanting
        if job in wanting:
            wanting.discard(job)
            if not wanting:
                # It may hit the next step if this one ends just now; that is then computed once more.
                self._decoder.abort()

    # --- everything below runs in the engine thread ---

    def _nothing_to_compute(self) -> bool:
        return self._scheduler.idle

    def _accept(self, job: Job) -> None:
        for generation in job.generations:
            self._owners[generation.sequence] = (job, generation)
            self._scheduler.add(generation.sequence)

    def _withdraw(self, job: Job) -> None:
        if job.unfinished:
            self.counters.cancelled += 1
            self._drop(job)

    def _drop(self, job: Job) -> None:
        job.unfinished = 0
        for generation in job.generations:
            if self._owners.pop(generation.sequence, None) is not None:
                self._scheduler.finish(generation.sequence)

    def _step(self) -> None:
        batch = self._scheduler.next_batch()
        if self.growth is not None:
            self.growth.consider()
        before = time.monotonic()
        # Here and not after sampling: the event loop works on it while this thread computes, and not while both want
        # the interpreter.
        self._send(before)
        if batch is None:
            return
        for chunk in batch.chunks:
            generation = self._owners[chunk.sequence][1]
            if generation.started is None:
                generation.started = before
        self._wanting = {self._owners[chunk.sequence][0] for chunk in batch.chunks}
        try:
            logits = self._decoder.decode(batch)
        except Aborted:
            self.counters.aborted_steps += 1
            return
        except OutOfRoom:
            if not self._scheduler.relieve():
                self._fail_all(EngineFailed("the KV cache has no room for a single sequence"))
            return
        except LlmserveError as error:
            self._fail_all(error)
            return
        finally:
            self._wanting = set()
        now = time.monotonic()
        self._scheduler.commit(batch, now - before)
        self.counters.steps += 1
        self.counters.step_seconds += now - before
        self.counters.prompt_tokens += batch.prefill
        self._sample(batch, logits, now)
        if self._scheduler.idle:
            self._send(now)

    def _sample(self, batch: Batch, logits: npt.NDArray[np.float32], now: float) -> None:
        """Score prompts, and let every sequence write that can. `logits`: float32 [rows of all chunks, vocabulary]."""
        scored = self._rows_to_score(batch, logits)
        end = 0
        for chunk in batch.chunks:
            start, end = end, end + chunk.rows
            if chunk.sequence not in self._owners:
                continue  # another answer of the same request failed in this step
            job, generation = self._owners[chunk.sequence]
            if chunk.scored:
                _score_prompt(generation, chunk, logits[start:end])
            if chunk.sample:
                first = end - 1 - len(chunk.draft)
                scores = [partial(scored.score, row) for row in range(first, end)] if generation.top is not None else []
                self._write(job, generation, chunk, logits[first:end], scores, now)

    def _rows_to_score(self, batch: Batch, logits: npt.NDArray[np.float32]) -> ScoredRows:
        """The rows whose tokens want a score, as they are before anything is chosen from them."""
        tops: dict[int, int] = {}
        end = 0
        for chunk in batch.chunks:
            end += chunk.rows
            top = self._owners[chunk.sequence][1].top
            if chunk.sample and top is not None:
                tops |= dict.fromkeys(range(end - 1 - len(chunk.draft), end), top)
        return ScoredRows(logits, tops)

    def _write(
        self,
        job: Job,
        generation: Generation,
        chunk: Chunk,
        rows: npt.NDArray[np.float32],
        scores: Sequence[Callable[[int], TokenScore]],
        now: float,
    ) -> None:
        """The next tokens of one answer: one, and those of the draft that are right.

        `rows`: float32 [1 + draft, vocabulary]. `scores`: for each row, what gives the score of the token chosen from
        it; empty where none are wanted.
        """
        if generation.first_token is None:
            generation.first_token = now
            self._urgent = True
            self.counters.cached_tokens += generation.sequence.cached or 0
        if generation.max_tokens == 0:
            self._outbox.append((job, self._delta(generation, "", "length")))
            self._finish(job, generation)
            return
        written, reason = 0, None
        try:
            for token in verified(rows, chunk.draft, partial(_choose, generation)):
                score = scores[written](token) if scores else None
                written += 1
                reason = self._append(job, generation, token, score)
                if reason is not None:
                    break
        except LlmserveError as error:
            self._fail(job, error)
            return
        except (ArithmeticError, LookupError, ValueError):
            # A mistake in how one answer's tokens are chosen must not end all the others.
            _log.exception("a token could not be chosen")
            self._fail(job, EngineFailed("the next token could not be chosen"))
            return
        self.counters.drafted_tokens += len(chunk.draft)
        self.counters.accepted_tokens += written - 1
        self._scheduler.settle(chunk, written - 1)
        if reason is not None:
            self._finish(job, generation)

    def _append(self, job: Job, generation: Generation, token: int, score: TokenScore | None) -> FinishReason | None:
        """One more token of one answer: show its text; why the answer ends with it, if it does."""
        sequence = generation.sequence
        sequence.tokens.append(token)
        generation.sampler.accept(token)
        self.counters.generated_tokens += 1
        ended = token in self._ends
        text = ""
        if not ended:
            piece = generation.shown.get(token) or self._piece(token)
            text = generation.text.feed(piece)
            if score is not None:
                generation.scored_text.wrote(piece, score)
        reason: FinishReason | None = None
        if ended or generation.text.stopped or not self._constraint_goes_on(generation, token):
            reason = "stop"
        elif sequence.generated >= generation.max_tokens or len(sequence.tokens) >= sequence.max_length:
            reason = "length"
        if reason is not None and not generation.text.stopped:
            text += generation.text.flush()
        if text or reason is not None:
            self._outbox.append((job, self._delta(generation, text, reason)))
        return reason

    @staticmethod
    def _delta(generation: Generation, text: str, reason: FinishReason | None) -> Delta:
        if generation.top is None:
            return Delta(generation.index, text, reason)
        parts = generation.scored_text.show(text, ended=reason is not None and not generation.text.stopped)
        prompt_scores, generation.prompt_scores = tuple(generation.prompt_scores), []
        return Delta(generation.index, text, reason, parts, prompt_scores)

    def _finish(self, job: Job, generation: Generation) -> None:
        self._scheduler.finish(generation.sequence)
        del self._owners[generation.sequence]
        job.unfinished -= 1
        self._urgent = True

    @staticmethod
    def _constraint_goes_on(generation: Generation, token: int) -> bool:
        """Whether more may follow `token`. Raises the rule's own error where it ran into a limit."""
        rule = generation.constraint
        if rule is None:
            return True
        accepted = rule.accept(token)
        if rule.failure is not None:
            raise rule.failure
        return accepted and not rule.complete

    def _fail(self, job: Job, error: LlmserveError) -> None:
        if job.unfinished:
            self._drop(job)
            self._outbox.append((job, Failure(error)))
            self._urgent = True

    def _fail_all(self, error: LlmserveError) -> None:
        """The cache is lost: every job ends with `error`, and the engine starts from an empty cache."""
        jobs = list(dict.fromkeys(job for job, _ in self._owners.values()))
        self._owners.clear()
        self._scheduler.clear()
        self._decoder.clear()
        for job in jobs:
            job.unfinished = 0
            self._outbox.append((job, Failure(error)))
        self._urgent = True
        self._send(time.monotonic())

    def _send(self, now: float) -> None:
        """Hand over what has gathered, if it is due or urgent: each answer's text of several steps as one delta."""
        if not self._outbox or not (self._urgent or now - self._delivered >= self._delivery_seconds):
            return
        self._delivered, self._urgent = now, False
        outbox, self._outbox = merged(self._outbox), []

        def deliver() -> None:
            for job, event in outbox:
                job.deliver(event)

        self._post(deliver)


def _choose(generation: Generation, row: npt.NDArray[np.float32]) -> int:
    """The token that follows, by `row`: float32 [vocabulary], which is altered.

    Raises `EngineFailed`, or the rule's own error where the answer follows one that ran into a limit.
    """
    sampler = generation.sampler
    if sampler.adjusts:
        sampler.adjust(row)
    if generation.constraint is not None:
        generation.constraint.apply(row)
    likeliest = int(row.argmax())
    if not math.isfinite(row[likeliest]):
        failure = generation.constraint.failure if generation.constraint is not None else None
        raise failure or EngineFailed("the model produced no usable probabilities")
    return likeliest if sampler.greedy else sampler.draw(row)


def _score_prompt(generation: Generation, chunk: Chunk, rows: npt.NDArray[np.float32]) -> None:
    """Score the prompt's tokens that follow those of `chunk`, except what was scored before a preemption.

    `rows`: float32 [tokens of the chunk, vocabulary].
    """
    sequence = generation.sequence
    known = len(generation.prompt_scores) - chunk.start
    following = sequence.tokens[chunk.start + 1 : min(chunk.start + 1 + chunk.count, sequence.prompt_length)][known:]
    generation.prompt_scores += prompt_scores(rows[known : known + len(following)], following, generation.top or 0)
    if len(generation.prompt_scores) >= sequence.prompt_length - 1:
        sequence.scores_prompt = False
