from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterator

import numpy as np
import numpy.typing as npt
import pytest

from llmserve.errors import InvalidRequest
from llmserve.llama.batch import Batch
from llmserve.llama.draft import Drafter
from llmserve.llama.engine import Aborted, Engine, EngineFailed, OutOfRoom
from llmserve.llama.generation import Delta, Failure, Generation, Job
from llmserve.llama.kv_cache import Limits, UnifiedCache
from llmserve.llama.sampler import Sampler, SamplingParameters
from llmserve.llama.scheduler import Scheduler
from llmserve.llama.sequence import Sequence
from llmserve.llama.speculation import MOST_DRAFTED, Experience, Speculation, StepCost
from llmserve.llama.step_budget import StepBudget
from llmserve.llama.text_stream import TextStream
from llmserve.llama.token_rule import TokenRule
from tests.llama.fake_runner import VOCABULARY, FakeRunner, next_token
from tests.llama.fixed_rule import FixedRule

END = VOCABULARY - 1


def piece(token: int) -> bytes:
    return f"{token} ".encode()


class Gate(FakeRunner):
    """A fake runner whose next steps wait to be let through, and can be told to fail."""

    def __init__(self) -> None:
        super().__init__(8, 256, 32)
        self.permits = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def abort(self) -> None:
        self.failures.put(Aborted())
        self.permits.release()

    def decode(self, batch: Batch) -> npt.NDArray[np.float32]:
        self.entered.release()
        self.permits.acquire()
        if not self.failures.empty():
            batch.operations.clear()
            raise self.failures.get()
        return super().decode(batch)


class LimitedRule:
    """Lets every token pass until so many were accepted, and fails then: at a token, or because none may follow."""

    def __init__(self, accepts: int, *, at_mask: bool) -> None:
        self.failure: InvalidRequest | None = None
        self.complete = False
        self._left, self._at_mask = accepts, at_mask

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        if self._at_mask and self._left == 0:
            self.failure = InvalidRequest("too much work", param="response_format")
            logits[:] = -np.inf

    def allows(self, token: int) -> bool:
        return self.failure is None

    def accept(self, token: int) -> bool:
        self._left -= 1
        if not self._at_mask and self._left < 0:
            self.failure = InvalidRequest("too much work", param="response_format")
        return self.failure is None

    def forced(self) -> list[int]:
        return []


class Harness:
    def __init__(self, decoder: FakeRunner, delivery_seconds: float = 0) -> None:
        self.events: queue.SimpleQueue[tuple[Job, Delta | Failure]] = queue.SimpleQueue()
        self.decoder = decoder
        scheduler = Scheduler(UnifiedCache(Limits(4, 8, 256, 256)), StepBudget(32))
        self.engine = Engine(decoder, scheduler, piece, (END,), self._post, delivery_seconds)
        self.engine.start()

    @staticmethod
    def _post(deliver: Callable[[], None]) -> None:
        deliver()

    def submit(
        self,
        prompt: list[int],
        write: int,
        *,
        n: int = 1,
        stops: tuple[str, ...] = (),
        rule: TokenRule | None = None,
        sampler: Sampler | None = None,
    ) -> Job:
        generations = [
            Generation(
                index,
                Sequence(list(prompt), len(prompt), 256),
                sampler or Sampler(SamplingParameters(temperature=0), prompt, index),
                TextStream(stops),
                write,
                constraint=rule,
            )
            for index in range(n)
        ]
        job = Job(generations, lambda event: self.events.put((job, event)))
        self.engine.submit(job)
        return job

    def outcome(self, job: Job) -> tuple[dict[int, str], dict[int, str]] | Failure:
        """Text and finish reason per choice, or the failure, once the job is over."""
        texts: dict[int, str] = {}
        reasons: dict[int, str] = {}
        while len(reasons) < len(job.generations):
            owner, event = self.events.get(timeout=20)
            if owner is not job:
                continue
            if isinstance(event, Failure):
                return event
            texts[event.index] = texts.get(event.index, "") + event.text
            if event.finish_reason is not None:
                reasons[event.index] = event.finish_reason
        return texts, reasons


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness(FakeRunner(8, 256, 32))
    yield harness
    harness.engine.close()


@pytest.fixture
def gated() -> Iterator[Harness]:
    harness = Harness(gate := Gate())
    yield harness
    gate.permits.release(1000)
    harness.engine.close()


def expected(prompt: list[int], write: int) -> tuple[str, str]:
    tokens, text = list(prompt), ""
    for _ in range(write):
        tokens.append(next_token(tokens))
        if tokens[-1] == END:
            return text, "stop"
        text += f"{tokens[-1]} "
    return text, "length"


@pytest.mark.parametrize("prompt", [[1], [2, 3], list(range(50))], ids=len)
def test_text_and_reason(harness: Harness, prompt: list[int]) -> None:
    text, reason = expected(prompt, 30)
    assert harness.outcome(harness.submit(prompt, 30)) == ({0: text}, {0: reason})


@pytest.mark.parametrize("at_mask", [True, False])
def test_a_rule_that_runs_into_a_limit_ends_its_own_request_with_its_own_error(harness: Harness, at_mask: bool) -> None:
    failed = harness.outcome(harness.submit([3, 4], 12, rule=LimitedRule(2, at_mask=at_mask)))
    assert isinstance(failed, Failure)
    assert (failed.error.status, failed.error.param) == (400, "response_format")
    text, reason = expected([9, 9], 12)
    assert harness.outcome(harness.submit([9, 9], 12)) == ({0: text}, {0: reason})


def test_a_sampler_that_goes_wrong_costs_its_own_request_only(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Sampler):
        def draw(self, logits: npt.NDArray[np.float32]) -> int:
            raise IndexError("index -1 is out of bounds")

    failed = harness.outcome(harness.submit([3, 4], 12, sampler=Broken(SamplingParameters(), [3, 4])))
    assert isinstance(failed, Failure)
    assert failed.error.status == 500
    assert "out of bounds" in caplog.text
    text, reason = expected([9, 9], 12)
    assert harness.outcome(harness.submit([9, 9], 12)) == ({0: text}, {0: reason})


def test_n_answers_come_from_one_prompt(harness: Harness) -> None:
    prompt = list(range(40))
    job = harness.submit(prompt, 5, n=3)
    text, reason = expected(prompt, 5)
    assert harness.outcome(job) == (dict.fromkeys(range(3), text), dict.fromkeys(range(3), reason))
    assert harness.decoder.computed < 2 * len(prompt)


def test_a_stop_string_ends_the_answer_before_it(harness: Harness) -> None:
    text, _ = expected([5], 6)
    words = text.split()
    assert harness.outcome(harness.submit([5], 6, stops=(f"{words[2]} ",))) == (
        {0: " ".join(words[:2]) + " "},
        {0: "stop"},
    )


def test_the_context_ends_an_answer_with_length(harness: Harness) -> None:
    outcome = harness.outcome(harness.submit([0] * 250, 10_000))
    assert not isinstance(outcome, Failure)
    assert outcome[1] == {0: "length"}


def test_a_cancelled_job_hears_nothing_more_and_frees_its_place(gated: Harness) -> None:
    gate = gated.decoder
    assert isinstance(gate, Gate)
    job = gated.submit([1, 2], 1000)
    gate.entered.acquire()
    gated.engine.cancel(job)
    gate.permits.release(1)
    other = gated.submit([3], 1)
    gate.permits.release(100)
    assert gated.outcome(other) == ({0: expected([3], 1)[0]}, {0: expected([3], 1)[1]})
    assert gated.engine.counters.cancelled == 1
    assert gated.engine.running == gated.engine.waiting == 0


def test_a_step_for_a_cancelled_job_alone_is_given_up(gated: Harness) -> None:
    gate = gated.decoder
    assert isinstance(gate, Gate)
    job = gated.submit([1, 2], 1000)
    gate.entered.acquire()
    gated.engine.cancel(job)
    other = gated.submit([3], 1)
    gate.permits.release(100)
    assert gated.outcome(other) == ({0: expected([3], 1)[0]}, {0: expected([3], 1)[1]})
    assert gated.engine.counters.aborted_steps == 1
    assert gated.engine.counters.cancelled == 1


def test_a_step_that_somebody_still_wants_is_not_given_up(gated: Harness) -> None:
    gate = gated.decoder
    assert isinstance(gate, Gate)
    job, other = gated.submit([1], 1000), gated.submit([2], 4)
    gate.entered.acquire()
    gate.permits.release(1)
    gate.entered.acquire()  # the second step at the latest is for both
    gated.engine.cancel(job)
    gate.permits.release(100)
    assert gated.outcome(other) == ({0: expected([2], 4)[0]}, {0: expected([2], 4)[1]})
    assert gated.engine.counters.aborted_steps == 0


def test_a_step_given_up_for_nobody_is_computed_again(gated: Harness) -> None:
    gate = gated.decoder
    assert isinstance(gate, Gate)
    gate.abort()
    job = gated.submit([1, 2], 4)
    gate.permits.release(100)
    assert gated.outcome(job) == ({0: expected([1, 2], 4)[0]}, {0: expected([1, 2], 4)[1]})
    assert gated.engine.counters.aborted_steps == 1


def test_a_step_that_fails_ends_its_jobs_and_the_engine_goes_on(gated: Harness) -> None:
    gate = gated.decoder
    assert isinstance(gate, Gate)
    gate.failures.put(EngineFailed("broken"))
    job = gated.submit([1, 2], 5)
    gate.permits.release(100)
    failure = gated.outcome(job)
    assert isinstance(failure, Failure)
    assert failure.error.code == "engine_error"
    assert gated.outcome(gated.submit([3], 2)) == ({0: expected([3], 2)[0]}, {0: expected([3], 2)[1]})


def test_an_unforeseen_lack_of_cells_is_relieved_and_nobody_notices(gated: Harness) -> None:
    gate = gated.decoder
    assert isinstance(gate, Gate)
    jobs = [gated.submit([n], 4) for n in (1, 2)]
    gate.entered.acquire()
    gate.permits.release(1)
    gate.entered.acquire()
    gate.failures.put(OutOfRoom())
    gate.permits.release(100)
    outcomes = [gated.outcome(jobs[0])]
    assert outcomes == [({0: expected([1], 4)[0]}, {0: expected([1], 4)[1]})]


def test_rows_without_usable_logits_fail_their_own_job_only() -> None:
    class Poisoned(FakeRunner):
        def decode(self, batch: Batch) -> npt.NDArray[np.float32]:
            chunks = [chunk for chunk in batch.chunks if chunk.sample]
            logits = super().decode(batch)
            for row, chunk in zip(logits, chunks, strict=True):
                if chunk.sequence.tokens[0] == 13:
                    row[:] = np.nan
            return logits

    harness = Harness(Poisoned(8, 256, 32))
    bad = harness.submit([13], 3)
    assert isinstance(harness.outcome(bad), Failure)
    assert harness.outcome(harness.submit([1], 2)) == ({0: expected([1], 2)[0]}, {0: expected([1], 2)[1]})
    harness.engine.close()


def test_text_of_several_steps_comes_as_one_delta_but_the_first_and_the_last_at_once() -> None:
    harness = Harness(FakeRunner(8, 256, 32), delivery_seconds=1000)
    job = harness.submit([5], 6)
    arrived = [harness.events.get(timeout=20)[1] for _ in range(2)]
    text, reason = expected([5], 6)
    words = [f"{word} " for word in text.split()]
    assert arrived == [Delta(0, words[0]), Delta(0, "".join(words[1:]), reason)]  # type: ignore[arg-type]
    assert job.unfinished == 0
    harness.engine.close()


class Likeliest(Speculation):
    """Drafts what the model finds likeliest, which a sampled text mostly but not always goes on with."""

    def __init__(self) -> None:
        super().__init__(Drafter(), Experience())

    def draft(self, tokens: Collection[int], price: float, most: int = MOST_DRAFTED) -> list[int]:
        text = list(tokens)
        for _ in range(min(most, 4)):
            text.append(next_token(text))
        return text[len(tokens) :]


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_draws_the_same_text_with_drafts_as_without(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(StepCost, "price", lambda *_: 0.1)  # whatever a busy machine measures

    def write(speculation: Speculation | None) -> tuple[dict[int, str], dict[int, str]] | Failure:
        sequence = Sequence([1, 2, 3], 3, 100, speculation=speculation)
        sampler = Sampler(SamplingParameters(temperature=1, seed=seed, banned=(END,)), [1, 2, 3])
        job = Job([Generation(0, sequence, sampler, TextStream(), 60)], lambda event: harness.events.put((job, event)))
        harness.engine.submit(job)
        return harness.outcome(job)

    plain = write(None)
    assert harness.engine.counters.drafted_tokens == 0
    assert write(Likeliest()) == plain
    counters = harness.engine.counters
    assert 0 < counters.accepted_tokens < counters.drafted_tokens


def test_what_a_rule_forces_is_written_in_fewer_steps(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepCost, "price", lambda *_: 0.3)  # whatever a busy machine measures
    wanted = [number * 37 % 50 for number in range(24)]

    def write(*, silent: bool) -> tuple[str, int]:
        speculation = Speculation(Drafter(), Experience())
        generation = Generation(
            0,
            Sequence([1, 2, 3], 3, 100, speculation=speculation),
            Sampler(SamplingParameters(temperature=0), [1, 2, 3]),
            TextStream(),
            60,
        )
        generation.follow(FixedRule(*wanted, told=0 if silent else 3))
        job = Job([generation], lambda event: harness.events.put((job, event)))
        before = harness.engine.counters.steps
        harness.engine.submit(job)
        outcome = harness.outcome(job)
        assert not isinstance(outcome, Failure)
        assert outcome[1] == {0: "stop"}
        return outcome[0][0], harness.engine.counters.steps - before

    plain, steps = write(silent=True)
    assert plain == "".join(f"{token} " for token in wanted)
    assert write(silent=False) == (plain, pytest.approx(steps / 4, abs=2))
