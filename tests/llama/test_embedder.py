"""The embedding thread over a fake encoder."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from llmserve.errors import LlmserveError
from llmserve.llama.embedder import Embedder, EmbeddingJob, Rows
from llmserve.llama.engine import EngineFailed


class FakeEncoder:
    """A text's row is its length and its first token. Each step waits for `door`; token 13 fails it, 14 gives NaN."""

    batch = 64
    sequences = 8

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.entered = threading.Semaphore(0)
        self.door = threading.Semaphore(0)

    def encode(self, texts: Sequence[Sequence[int]]) -> Rows:
        self.entered.release()
        assert self.door.acquire(timeout=20)
        self.steps.append(len(texts))
        if any(text[0] == 13 for text in texts):
            raise EngineFailed("unlucky")
        rows = [[len(text), np.nan if text[0] == 14 else text[0]] for text in texts]
        return np.array(rows, dtype=np.float32)


class Results:
    """What was delivered, in order, as the event loop would get it."""

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[Rows | LlmserveError] = queue.SimpleQueue()

    def job(self, *texts: list[int]) -> EmbeddingJob:
        return EmbeddingJob(texts, self._arrived.put)

    def next(self) -> Rows | LlmserveError:
        return self._arrived.get(timeout=20)

    def next_rows(self) -> list[list[float]]:
        rows = self.next()
        assert not isinstance(rows, LlmserveError)
        return [[float(number) for number in row] for row in rows]

    @property
    def empty(self) -> bool:
        return self._arrived.empty()


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def embedder(encoder: FakeEncoder) -> Iterator[Embedder]:
    def at_once(callback: Callable[[], None]) -> None:
        callback()

    embedder = Embedder(encoder, 32, at_once)
    embedder.start()
    yield embedder
    encoder.door.release(1000)
    embedder.close()


@pytest.fixture
def results() -> Results:
    return Results()


def test_rows_come_back_in_the_order_of_the_texts(embedder: Embedder, encoder: FakeEncoder, results: Results) -> None:
    encoder.door.release(100)
    embedder.submit(results.job([1] * 5, [2] * 30, [3] * 40, [4]))
    assert results.next_rows() == [[5, 1], [30, 2], [40, 3], [1, 4]]


def test_what_came_during_a_step_shares_the_next(embedder: Embedder, encoder: FakeEncoder, results: Results) -> None:
    embedder.submit(results.job([1]))
    assert encoder.entered.acquire(timeout=20)
    for number in range(2, 8):
        embedder.submit(results.job([number]))
    encoder.door.release(2)
    assert [results.next_rows() for _ in range(7)] == [[[1, number]] for number in range(1, 8)]
    assert encoder.steps == [1, 6]


def test_a_cancelled_request_is_computed_no_further(embedder: Embedder, encoder: FakeEncoder, results: Results) -> None:
    gone, here = results.job(*[[1] * 30] * 50), results.job([2])
    embedder.submit(gone)
    assert encoder.entered.acquire(timeout=20)
    embedder.cancel(gone)
    embedder.submit(here)
    encoder.door.release(100)
    assert results.next_rows() == [[1, 2]]
    assert encoder.steps == [1, 1]
    assert embedder.counters.cancelled == 1
    assert embedder.waiting == embedder.waiting_tokens == 0
    assert results.empty


def test_a_step_that_fails_costs_its_own_requests(embedder: Embedder, encoder: FakeEncoder, results: Results) -> None:
    encoder.door.release(100)
    embedder.submit(results.job([13], [1] * 32, [2] * 32))
    assert isinstance(results.next(), EngineFailed)
    embedder.submit(results.job([3]))
    assert results.next_rows() == [[1, 3]]


def test_a_result_that_is_no_number_costs_its_request_alone(
    embedder: Embedder, encoder: FakeEncoder, results: Results
) -> None:
    embedder.submit(results.job([1]))
    assert encoder.entered.acquire(timeout=20)
    embedder.submit(results.job([14], [1]))
    embedder.submit(results.job([2]))
    encoder.door.release(100)
    assert results.next_rows() == [[1, 1]]
    assert isinstance(results.next(), EngineFailed)
    assert results.next_rows() == [[1, 2]]


def test_a_request_that_is_answered_cannot_be_cancelled(
    embedder: Embedder, encoder: FakeEncoder, results: Results
) -> None:
    encoder.door.release(100)
    answered = results.job([1])
    embedder.submit(answered)
    results.next_rows()
    embedder.cancel(answered)
    embedder.submit(results.job([2]))
    assert results.next_rows() == [[1, 2]]
    assert embedder.counters.cancelled == 0
