"""Which texts share a step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmserve.llama.text_queue import TextJob, TextQueue


def job(*lengths: int) -> TextJob:
    return TextJob([[0] * length for length in lengths])


def filled(*jobs: TextJob) -> TextQueue[TextJob]:
    queue: TextQueue[TextJob] = TextQueue()
    for one in jobs:
        queue.add(one)
    return queue


def test_single_texts_of_many_requests_share_one_step() -> None:
    jobs = [job(3) for _ in range(40)]
    queue = filled(*jobs)
    assert queue.next_batch(128, 64) == [(one, 0) for one in jobs]
    assert not queue


def test_a_small_request_waits_for_one_step_of_a_large_one() -> None:
    large, small = job(*[10] * 100), job(10)
    queue = filled(large)
    assert queue.next_batch(40, 64) == [(large, place) for place in range(4)]
    queue.add(small)
    assert (small, 0) in queue.next_batch(40, 64)


def test_a_long_text_has_a_step_of_its_own_and_is_next_when_it_did_not_fit() -> None:
    short, long, other = job(5), job(500), job(5)
    queue = filled(short, long, other)
    assert queue.next_batch(100, 64) == [(short, 0)]
    assert queue.next_batch(100, 64) == [(long, 0)]
    assert queue.next_batch(100, 64) == [(other, 0)]


def test_what_is_dropped_is_not_computed() -> None:
    first, second = job(5, 5), job(5)
    queue = filled(first, second)
    queue.drop(first)
    queue.drop(first)
    assert (queue.waiting, queue.waiting_tokens) == (1, 5)
    assert queue.next_batch(100, 64) == [(second, 0)]


@given(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), max_size=12),
    st.integers(1, 60),
    st.integers(1, 10),
)
def test_every_text_is_computed_once_within_the_bounds(
    requests: list[list[int]], most_tokens: int, most_texts: int
) -> None:
    jobs = [job(*lengths) for lengths in requests]
    queue = filled(*jobs)
    computed: list[tuple[TextJob, int]] = []
    while queue:
        batch = queue.next_batch(most_tokens, most_texts)
        tokens = sum(len(one.texts[place]) for one, place in batch)
        assert 1 <= len(batch) <= most_texts
        assert tokens <= most_tokens or len(batch) == 1
        computed += batch
    assert len(computed) == len(set(computed)) == sum(map(len, requests))
    assert (queue.waiting, queue.waiting_tokens) == (0, 0)
