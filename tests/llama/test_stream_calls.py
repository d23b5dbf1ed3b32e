"""Chunks of streams, parted into calls: every token once and in order, in as few passes as can be."""

from __future__ import annotations

import random

from llmserve.llama.batch import Chunk
from llmserve.llama.sequence import Sequence
from llmserve.llama.step_budget import ATTENTION_TILE
from llmserve.llama.stream_calls import calls, gaps


def chunk(slot: int, count: int, *, sample: bool = True, scored: bool = False, draft: tuple[int, ...] = ()) -> Chunk:
    sequence = Sequence(list(range(100 * slot, 100 * slot + 99)), 99, 100)
    return Chunk(sequence, slot, 5, count, sample, scored, draft)


def passes(chunks: list[Chunk]) -> int:
    """How many times llama.cpp goes over the weights: once for each run of neighbours in each call."""
    return sum(1 + len(gaps(chunk.slot for chunk in call)) for call in calls(chunks))


def test_the_gaps_between_slots() -> None:
    assert gaps([]) == gaps([3]) == gaps([2, 1, 3]) == []
    assert gaps({7, 1, 2}) == [range(3, 7)]
    assert gaps([0, 2, 9]) == [range(1, 2), range(3, 9)]


def test_equally_long_chunks_are_one_call() -> None:
    chunks = [chunk(slot, 10 + slot % 3 * 10) for slot in range(6)]
    assert [[(piece.slot, piece.count) for piece in call] for call in calls(chunks)] == [
        [(0, 10), (3, 10)],
        [(1, 20), (4, 20)],
        [(2, 30), (5, 30)],
    ]


def test_a_prompt_between_writers_joins_them_with_its_first_token() -> None:
    chunks = [chunk(0, 1), chunk(1, 30), chunk(2, 1), chunk(3, 20)]
    assert passes(chunks) == 3
    first, *others = calls(chunks)
    assert [(piece.slot, piece.start, piece.count, piece.rows) for piece in first] == [
        (0, 5, 1, 1),
        (1, 5, 1, 0),
        (2, 5, 1, 1),
    ]
    assert [[(piece.slot, piece.start, piece.count, piece.rows) for piece in call] for call in others] == [
        [(3, 5, 20, 1)],
        [(1, 6, 29, 1)],
    ]


def test_what_is_dear_to_cut_stays_whole() -> None:
    for whole in (chunk(1, ATTENTION_TILE), chunk(1, 3, draft=(1, 2))):
        chunks = [chunk(0, 1), whole, chunk(2, 1)]
        assert calls(chunks) == [[chunks[0], chunks[2]], [whole]]


def test_nothing_joins_where_a_slot_of_the_gap_has_no_chunk() -> None:
    chunks = [chunk(0, 1), chunk(1, 30), chunk(3, 1)]
    assert calls(chunks) == [[chunks[0], chunks[2]], [chunks[1]]]


def test_any_chunks_are_computed_whole_and_in_order() -> None:
    rng = random.Random(3)
    for _ in range(500):
        slots = sorted(rng.sample(range(12), rng.randint(1, 12)))
        chunks = [chunk(slot, rng.choice([1, 1, 1, 2, 3, 30]), scored=rng.random() < 0.2) for slot in slots]
        parted = calls(chunks)
        for one in chunks:
            pieces = [piece for call in parted for piece in call if piece.slot == one.slot]
            assert [token for piece in pieces for token in piece.tokens] == one.tokens
            assert sum(piece.rows for piece in pieces) == one.rows
        for call in parted:
            assert len({piece.count for piece in call}) == 1
            assert [piece.slot for piece in call] == sorted({piece.slot for piece in call})
        assert passes(chunks) <= sum(
            1 + len(gaps(c.slot for c in chunks if c.count == n)) for n in {c.count for c in chunks}
        )
