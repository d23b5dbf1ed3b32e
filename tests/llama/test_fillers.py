"""What is computed for nobody: where it makes a step cheaper, and nowhere else."""

from __future__ import annotations

import random
from collections.abc import Collection

import pytest

from llmserve.llama.batch import Chunk
from llmserve.llama.fillers import Fillers
from llmserve.llama.sequence import Sequence
from llmserve.llama.stream_calls import gaps

SLOTS = 16
LONGEST = 100


def chunk(slot: int, count: int = 1, *, draft: tuple[int, ...] = ()) -> Chunk:
    return Chunk(Sequence([7] * 99, 99, LONGEST), slot, 20, count, True, False, draft)


def beside(slots: Collection[int], *, tile: int = 1, full: Collection[int] = ()) -> list[int]:
    """The slots that get a token beside one for each of `slots`."""
    fillers = Fillers(tile, LONGEST, 512)
    added = fillers.beside(
        [chunk(slot) for slot in sorted(slots)], SLOTS, lambda slot: LONGEST if slot in full else 11 + slot
    )
    assert all((one.start, one.count, one.rows) == (11 + one.slot, 1, 0) for one in added)
    return [one.slot for one in added]


EVERYBODY = set(range(SLOTS))


def test_small_gaps_among_many_are_filled() -> None:
    assert beside(EVERYBODY - {7}) == [7]
    assert beside(EVERYBODY - {4, 9, 10}) == [4, 9, 10]
    assert beside([0, 1, 3]) == [2]


def test_gaps_that_cost_more_than_a_pass_are_not() -> None:
    assert beside(EVERYBODY - {4, 5, 6, 7}) == []
    assert beside([0, 1, 4]) == []
    assert beside([0, 2]) == []


def test_a_full_slot_gets_nothing() -> None:
    assert beside(EVERYBODY - {7}, full={7}) == []
    assert beside(EVERYBODY - {7, 9}, full={7}) == [9]


@pytest.mark.parametrize(
    ("rows", "added"),
    [(1, 0), (2, 0), (3, 1), (4, 0), (5, 0), (6, 2), (7, 1), (8, 0), (9, 3), (13, 3), (15, 1), (16, 0)],
)
def test_a_tile_is_completed_where_most_of_it_is_wanted(rows: int, added: int) -> None:
    assert beside(range(rows), tile=4) == list(range(rows, rows + added))
    assert beside(range(rows), tile=1) == []


def test_a_tile_is_completed_on_either_side_or_not_at_all() -> None:
    assert beside(range(9, 16), tile=4) == [8]
    assert beside(range(5, 11), tile=4, full={12}) == [4, 11]
    assert beside(range(5, 11), tile=4, full={4, 12, 3}) == []


def test_the_part_of_a_prompt_is_completed_behind_its_end() -> None:
    fillers = Fillers(4, LONGEST, 512)
    added = fillers.beside([chunk(2, 63)], SLOTS, lambda slot: 20)
    assert [(one.slot, one.start, one.count, one.rows) for one in added] == [(2, 83, 1, 0)]
    assert fillers.beside([chunk(2, 64)], SLOTS, lambda slot: 20) == []
    assert fillers.beside([chunk(2, 5)], SLOTS, lambda slot: 20) == []


def test_neighbours_stay_equally_long() -> None:
    fillers = Fillers(4, LONGEST, 512)
    added = fillers.beside([chunk(slot, 31) for slot in (1, 2, 5)], SLOTS, lambda slot: 20)
    assert [(one.slot, one.start, one.count) for one in added] == [(1, 51, 1), (2, 51, 1), (5, 51, 1)]
    four = [chunk(slot, 31) for slot in (1, 2, 3, 4)]
    assert fillers.beside(four, SLOTS, lambda slot: 20) == []


def test_nothing_goes_beyond_a_slot_or_a_call() -> None:
    assert Fillers(4, LONGEST, 512).beside([chunk(2, 79)], SLOTS, lambda slot: 20)
    assert Fillers(4, 98, 512).beside([chunk(2, 79)], SLOTS, lambda slot: 20) == []
    assert Fillers(4, LONGEST, 79).beside([chunk(2, 79)], SLOTS, lambda slot: 20) == []


def test_drafts_are_left_alone() -> None:
    assert Fillers(4, LONGEST, 512).beside([chunk(0, 3, draft=(1, 2))], SLOTS, lambda slot: 20) == []


def test_no_slot_is_touched_twice_and_tiles_are_whole() -> None:
    rng = random.Random(5)
    for _ in range(500):
        slots = set(rng.sample(range(SLOTS), rng.randint(1, SLOTS)))
        full = set(rng.sample(range(SLOTS), 4))
        added = beside(slots, tile=4, full=full)
        assert len(set(added)) == len(added)
        assert slots.isdisjoint(added)
        assert full.isdisjoint(added)
        assert len(gaps(slots.union(added))) <= len(gaps(slots))
