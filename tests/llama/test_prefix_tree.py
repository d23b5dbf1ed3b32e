from __future__ import annotations

import random

import pytest

from llmserve.llama.prefix_tree import PrefixTree, common_prefix


def grown(*sequences: list[int]) -> PrefixTree:
    tree = PrefixTree()
    for slot, tokens in enumerate(sequences):
        tree.open(slot)
        tree.extend(slot, tokens)
    return tree


@pytest.mark.parametrize(
    ("left", "right", "start", "limit", "expected"),
    [
        ([1, 2, 3], [1, 2, 4], 0, None, 2),
        ([1, 2, 3], [1, 2, 3, 4], 0, None, 3),
        ([9, 1, 2], [1, 2, 3], 1, None, 2),
        ([1, 2, 3], [1, 2, 3], 0, 2, 2),
        ([], [1], 0, None, 0),
        (list(range(1000)), [*range(700), -1], 0, None, 700),
        (list(range(256)), list(range(256)), 0, None, 256),
    ],
)
def test_common_prefix(left: list[int], right: list[int], start: int, limit: int | None, expected: int) -> None:
    assert common_prefix(left, right, start, limit) == expected


def test_equal_tokens_computed_apart_are_separate_cells() -> None:
    assert grown([1, 2, 3], [1, 2, 3]).cells == 6


def test_a_fork_shares_cells_until_it_writes() -> None:
    tree = grown([1, 2, 3, 4])
    match = tree.match([1, 2, 3, 9], limit=3)
    assert match.length == 3
    assert tree.fork(match, 1) == 0
    assert tree.cells == 4
    tree.extend(1, [9, 10])
    assert tree.cells == 6
    assert tree.tokens(0) == [1, 2, 3, 4]
    assert tree.tokens(1) == [1, 2, 3, 9, 10]


def test_two_slots_on_one_leaf_write_apart() -> None:
    tree = grown([1, 2])
    tree.fork(tree.match([1, 2, 5], limit=2), 1)
    tree.extend(0, [7])
    tree.extend(1, [7])
    assert tree.cells == 4
    assert tree.tokens(0) == tree.tokens(1) == [1, 2, 7]


def test_release_frees_only_what_nobody_else_holds() -> None:
    tree = grown([1, 2, 3, 4])
    tree.fork(tree.match([1, 2, 9], limit=2), 1)
    tree.extend(1, [9])
    assert tree.release(0) == 2
    assert tree.tokens(1) == [1, 2, 9]
    assert tree.release(1) == 3
    assert tree.cells == 0


def test_match_takes_the_longest_of_several_branches() -> None:
    tree = grown([1, 2, 3], [1, 2, 3, 4, 5], [1, 2])
    match = tree.match([1, 2, 3, 4, 9], limit=4)
    assert match.length == 4
    assert tree.fork(match, 5) == 1


def test_opening_a_slot_twice_is_refused() -> None:
    tree = grown([1])
    with pytest.raises(ValueError, match="in use"):
        tree.open(0)


@pytest.mark.parametrize("seed", range(40))
def test_random_histories_agree_with_plain_lists(seed: int) -> None:
    """Cells are counted as a naive model counts them: each token a set of owners."""
    rng = random.Random(seed)
    tree, texts, cells, fresh = PrefixTree(), {}, {}, iter(range(10**9))
    for _ in range(300):
        action = rng.random()
        if action < 0.35 and len(texts) < 8:
            slot = next(number for number in range(8) if number not in texts)
            tokens = [rng.randrange(3) for _ in range(rng.randrange(1, 12))]
            match = tree.match(tokens, limit=len(tokens) - 1)
            assert match.length == max((common_prefix(tokens[:-1], text) for text in texts.values()), default=0)
            texts[slot] = tokens[: match.length]
            if match.length:
                cells[slot] = cells[tree.fork(match, slot)][: match.length]
            else:
                tree.open(slot)
                cells[slot] = []
        elif action < 0.8 and texts:
            slot = rng.choice(sorted(texts))
            tokens = [rng.randrange(3) for _ in range(rng.randrange(1, 5))]
            tree.extend(slot, tokens)
            texts[slot] = texts[slot] + tokens
            cells[slot] += [next(fresh) for _ in tokens]
        elif texts:
            slot = rng.choice(sorted(texts))
            tree.release(slot)
            del texts[slot], cells[slot]
        assert tree.cells == len({cell for owned in cells.values() for cell in owned})
        for slot, text in texts.items():
            assert tree.tokens(slot) == text
            assert tree.length(slot) == len(text)
        some = [slot for slot in texts if rng.random() < 0.5]
        assert tree.cells_held_by(some) == len({cell for slot in some for cell in cells[slot]})


def test_whole_matches_are_sequences_that_are_a_prefix_from_end_to_end() -> None:
    tree = PrefixTree()
    for slot, tokens in enumerate(([1, 2, 3, 4], [1, 2], [5])):
        tree.open(slot)
        tree.extend(slot, tokens)
    match = tree.match([1, 2, 3, 9], 3, whole=True)
    assert (match.length, tree.holders(match)) == (2, {1})
    assert tree.match([1, 2, 3, 9], 3).length == 3
    assert tree.match([9, 5], 2, whole=True).length == 0


def test_a_cut_sequence_keeps_its_front_and_frees_the_rest() -> None:
    tree = PrefixTree()
    tree.open(0)
    tree.extend(0, [1, 2, 3, 4])
    tree.trim(0, 2)
    assert (tree.tokens(0), tree.cells) == ([1, 2], 2)
    tree.extend(0, [7])
    assert tree.tokens(0) == [1, 2, 7]


def test_shared_counts_equal_tokens_whoever_computed_them() -> None:
    tree = PrefixTree()
    for slot, tokens in enumerate(([1, 2, 3, 4], [1, 2, 9], [1])):
        tree.open(slot)
        tree.extend(slot, tokens)
    assert [tree.shared(slot) for slot in range(3)] == [2, 2, 1]
