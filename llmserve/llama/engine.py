"""The engine thread: next_batch -> decode -> sample -> commit, one message to the event loop per step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from llmserve.errors import LlmserveError
from llmserve.llama.batch import Batch
from llmserve.llama.sampler import Sampler
from llmserve.llama.scheduler import Scheduler
from llmserve.llama.sequence import Phase
from llmserve.llama.sequence import Sequence as TokenSequence
from llmserve.llama.text_stream import TextStream
from llmserve.llama.token_rule import TokenRule

FinishReason = Literal["stop", "length"]

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


class OutOfRoom(Exception):
    """Raised by `Decoder.decode` when the cache cannot take the batch; nothing was computed."""


@dataclass(eq=False, slots=True)
class Generation:
    """One answer being written: `index` among the request's answers. Belongs to the engine thread once submitted."""

    index: int
    sequence: TokenSequence
    sampler: Sampler
    text: TextStream
    max_tokens: int
    constraint: TokenRule | None = None
    # Bytes to show for control tokens, which are otherwise invisible in text.
    shown: Mapping[int, bytes] = field(default_factory=dict)
    started: float | None = None
    first_token: float | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one answer, and why it ended if it did. Both may be absent in a step that shows nothing yet."""

    index: int
    text: str
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The request is over, with an error."""

    error: LlmserveError


@dataclass(eq=False, slots=True)
class Job:
    """A request as the engine sees it. `deliver` is called on the event loop with everything of one step."""

    generations: Sequence[Generation]
    deliver: Callable[[Delta | Failure], None]
    unfinished: int = field(init=False)

    def __post_init__(self) -> None:
        self.unfinished = len(self.generations)


@dataclass(slots=True)
class Counters:
    """Totals since the start, written by the engine thread and read by anyone (each is one machine word)."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    cancelled: int = 0
    step_seconds: float = 0.0


class Engine:
    """Owns the decoder and the scheduler; runs them in a thread of its own from `start` to `close`.

    `post` hands a callable to the event loop (`loop.call_soon_threadsafe`). `submit` and `cancel` may be called from
    any thread and return at once; a cancelled job gets nothing more after the step that is running.
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
        self._decoder = decoder
        self._scheduler = scheduler
        self._piece = piece
        self._ends = frozenset(ends)
        self._post = post
        self._commands: queue.SimpleQueue[tuple[Literal["submit", "cancel", "close"], Job | None]] = queue.SimpleQueue()
        self._owners: dict[TokenSequence, tuple[Job, Generation]] = {}
        self._outbox: list[tuple[Job, Delta | Failure]] = []
        self._delivery_seconds = delivery_seconds
        self._delivered = 0.0
        self._urgent = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.counters = Counters()

    @property
    def running(self) -> int:
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        return self._scheduler.waiting

    @property
    def cells_used(self) -> int:
        return self._scheduler.cache.cells_used

    @property
    def preemptions(self) -> int:
        return self._scheduler.preemptions

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._commands.put(("submit", job))

    def cancel(self, job: Job) -> None:
        self._commands.put(("cancel", job))

    def close(self) -> None:
        """Stop after the running step and wait for the thread. Jobs in flight get nothing more."""
        self._commands.put(("close", None))
        self._thread.join()

    # --- everything below runs in the engine thread ---

    def _run(self) -> None:
        while self._take_commands():
            self._step()

    def _take_commands(self) -> bool:
        """Carry out what was asked since the last step, sleeping while there is nothing to compute."""
        while True:
            try:
                command, job = self._commands.get(block=self._scheduler.idle)
            except queue.Empty:
                return True
            if job is None:
                return False
            if command == "submit":
                for generation in job.generations:
                    self._owners[generation.sequence] = (job, generation)
                    self._scheduler.add(generation.sequence)
            elif job.unfinished:
                self.counters.cancelled += 1
                self._drop(job)

    def _drop(self, job: Job) -> None:
        job.unfinished = 0
        for generation in job.generations:
            if self._owners.pop(generation.sequence, None) is not None:
                self._scheduler.finish(generation.sequence)

    def _step(self) -> None:
        batch = self._scheduler.next_batch()
        if batch is None:
            return
        before = time.monotonic()
        for chunk in batch.chunks:
            generation = self._owners[chunk.sequence][1]
            if generation.started is None:
                generation.started = before
        try:
            logits = self._decoder.decode(batch)
        except OutOfRoom:
            if not self._scheduler.relieve():
                self._fail_all(EngineFailed("the KV cache has no room for a single sequence"))
            return
        except LlmserveError as error:
            self._fail_all(error)
            return
        now = time.monotonic()
        self._scheduler.commit(batch, now - before)
        self.counters.steps += 1
        self.counters.step_seconds += now - before
        self.counters.prompt_tokens += batch.prefill
        self._sample(batch, logits, now)
        self._send(now)

    def _sample(self, batch: Batch, logits: npt.NDArray[np.float32], now: float) -> None:
        owners = [self._owners[chunk.sequence] for chunk in batch.chunks if chunk.sample]
        for row, (_, generation) in zip(logits, owners, strict=True):
            if generation.sampler.adjusts:
                generation.sampler.adjust(row)
            if generation.constraint is not None:
                generation.constraint.apply(row)
        largest = logits.argmax(axis=1) if owners else ()
        for row, greedy, (job, generation) in zip(logits, largest, owners, strict=True):
            if not np.isfinite(row[greedy]):
                self._fail(job, EngineFailed("the model produced no usable probabilities"))
                continue
            token = int(greedy) if generation.sampler.greedy else generation.sampler.draw(row)
            if generation.first_token is None:
                generation.first_token = now
                self._urgent = True
                self.counters.cached_tokens += generation.sequence.cached or 0
            self._advance(job, generation, token)

    def _advance(self, job: Job, generation: Generation, token: int) -> None:
        """One more token of one answer: show its text, and end the answer where it ends."""
        sequence = generation.sequence
        if sequence.phase is Phase.DONE:
            return  # another answer of the same request failed in this step
        sequence.tokens.append(token)
        generation.sampler.accept(token)
        self.counters.generated_tokens += 1
        ended = token in self._ends
        text = "" if ended else generation.text.feed(generation.shown.get(token) or self._piece(token))
        reason: FinishReason | None = None
        if ended or generation.text.stopped or not self._constraint_goes_on(generation, token):
            reason = "stop"
        elif sequence.generated >= generation.max_tokens or len(sequence.tokens) >= sequence.max_length:
            reason = "length"
        if reason is not None:
            if not generation.text.stopped:
                text += generation.text.flush()
            self._scheduler.finish(sequence)
            del self._owners[sequence]
            job.unfinished -= 1
            self._urgent = True
        if text or reason is not None:
            self._outbox.append((job, Delta(generation.index, text, reason)))

    @staticmethod
    def _constraint_goes_on(generation: Generation, token: int) -> bool:
        if generation.constraint is None:
            return True
        return generation.constraint.accept(token) and not generation.constraint.complete

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
        outbox, self._outbox = _merged(self._outbox), []

        def deliver() -> None:
            for job, event in outbox:
                job.deliver(event)

        self._post(deliver)


def _merged(outbox: list[tuple[Job, Delta | Failure]]) -> list[tuple[Job, Delta | Failure]]:
    """The same events with consecutive deltas of one answer joined."""
    gathered: dict[tuple[int, int], list[Delta]] = {}
    jobs: dict[int, Job] = {}
    failures: list[tuple[Job, Delta | Failure]] = []
    for job, event in outbox:
        if isinstance(event, Failure):
            failures.append((job, event))
        else:
            jobs[id(job)] = job
            gathered.setdefault((id(job), event.index), []).append(event)
    joined: list[tuple[Job, Delta | Failure]] = [
        (jobs[job], Delta(index, "".join(delta.text for delta in deltas), deltas[-1].finish_reason))
        for (job, index), deltas in gathered.items()
    ]
    return joined + failures
