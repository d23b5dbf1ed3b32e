"""Drafts, and that a text written with them is the text written without."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.llama.draft import Drafter, verified
from llmserve.llama.sampler import Sampler, SamplingParameters
from llmserve.llama.sampling_parameters import DryParameters, MirostatParameters, XtcParameters

VOCABULARY = 12
END = 0


def latest_continuation(tokens: list[int], sizes: range, most: int) -> list[int]:
    """What `Drafter.propose` says, by searching the text."""
    for size in sizes:
        suffix = tokens[len(tokens) - size :]
        for place in range(len(tokens) - 1, size - 1, -1):
            if tokens[place - size : place] == suffix and len(tokens) > size:
                period = len(tokens) - place
                return [tokens[place + offset % period] for offset in range(most)]
    return []


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, 4), max_size=200),
    st.lists(st.integers(0, 4), max_size=90),
    st.sampled_from([(3, 1), (3, 2), (2, 2), (1, 1)]),
    st.integers(0, 8),
)
def test_proposals_are_what_followed_the_latest_occurrence(
    prompt: list[int], answer: list[int], sizes: tuple[int, int], most: int
) -> None:
    longest, shortest = sizes
    drafter = Drafter(longest, shortest)
    tokens = list(prompt)
    for token in [*answer, 0]:
        # A clash of hashes may hide an n-gram; then a shorter one decides, or nothing is proposed.
        known = [latest_continuation(tokens, range(size, shortest - 1, -1), most) for size in range(longest, 0, -1)]
        assert drafter.propose(tokens, most) in [*known, []]
        tokens.append(token)


@pytest.mark.parametrize("length", [300, 20_000])
def test_nearly_every_repetition_is_found(length: int) -> None:
    quoted = np.random.default_rng(0).integers(0, 50_000, length).tolist()
    drafter = Drafter()
    drafter.propose(quoted, 0)
    found = sum(drafter.propose(quoted + quoted[:size], 4) == quoted[size : size + 4] for size in range(3, 203))
    assert found > 180


def test_indexing_ahead_changes_nothing() -> None:
    tokens = np.random.default_rng(0).integers(0, 2**20, 3000).tolist()
    tokens += tokens[100:103]
    ahead, late = Drafter(), Drafter()
    assert ahead.propose(tokens, 0) == []
    assert ahead.propose(tokens, 5) == late.propose(tokens, 5) == tokens[103:108]


@pytest.mark.parametrize("largest", [2**21, 2**31 - 1])
def test_tokens_of_any_size_give_true_proposals(largest: int) -> None:
    tokens = [largest, 5, largest - 1, 7, largest, 5, largest - 1]
    assert Drafter().propose(tokens, 2) == [7, largest]


def test_nothing_is_proposed_after_an_end() -> None:
    tokens = [1, 2, 3, END, 4, 1, 2]
    assert Drafter(ends={END}).propose(tokens, 6) == [3, END]


@pytest.mark.parametrize("sizes", [(4, 1), (2, 3), (1, 0)])
def test_impossible_sizes_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="n-grams"):
        Drafter(*sizes)


class Model:
    """Logits that depend on the last two tokens, so that greedy text soon repeats itself."""

    def __init__(self, seed: int, spread: float) -> None:
        self._table = np.random.default_rng(seed).normal(0, spread, (VOCABULARY, VOCABULARY, VOCABULARY))

    def rows(self, tokens: list[int], count: int) -> npt.NDArray[np.float32]:
        """The logits after each of the last `count` tokens."""
        places = range(len(tokens) - count, len(tokens))
        return np.stack([self._table[tokens[place - 1], tokens[place]] for place in places]).astype(np.float32)


def plain(model: Model, parameters: SamplingParameters, prompt: list[int], length: int) -> list[int]:
    sampler = Sampler(parameters, prompt)
    tokens = list(prompt)
    while len(tokens) < length and (len(tokens) == len(prompt) or tokens[-1] != END):
        (row,) = model.rows(tokens, 1)
        sampler.adjust(row)
        token = int(row.argmax()) if sampler.greedy else sampler.draw(row)
        sampler.accept(token)
        tokens.append(token)
    return tokens


def speculative(
    model: Model, parameters: SamplingParameters, prompt: list[int], length: int, most: int
) -> tuple[list[int], int]:
    """The text, and in how many steps it was written."""
    sampler = Sampler(parameters, prompt)
    drafter = Drafter(3, 1, ends={END})
    tokens = list(prompt)
    steps = 0

    def choose(row: npt.NDArray[np.float32]) -> int:
        sampler.adjust(row)
        return int(row.argmax()) if sampler.greedy else sampler.draw(row)

    def ended() -> bool:
        return len(tokens) >= length or (len(tokens) > len(prompt) and tokens[-1] == END)

    while not ended():
        draft = drafter.propose(tokens, most)
        steps += 1
        for token in verified(model.rows(tokens + draft, len(draft) + 1), draft, choose):
            sampler.accept(token)
            tokens.append(token)
            if ended():
                break
    return tokens, steps


@settings(deadline=None, max_examples=120)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.5, 3.0, 10.0]),
    st.lists(st.integers(1, VOCABULARY - 1), min_size=2, max_size=30),
    st.integers(0, 8),
    st.sampled_from(
        [
            {"temperature": 0.0},
            {"temperature": 0.0, "repetition_penalty": 1.2, "frequency_penalty": 0.3, "repeat_last_n": 6},
            {},
            {"top_k": 4, "top_p": 0.9, "temperature": 0.6},
            {"typical_p": 0.8, "xtc": XtcParameters(0.5, 0.05)},
            {"mirostat": MirostatParameters(2.0, 0.1), "dry": DryParameters(0.5, allowed_length=1)},
        ]
    ),
)
def test_a_text_is_the_same_with_drafts(
    seed: int, spread: float, prompt: list[int], most: int, asked: dict[str, Any]
) -> None:
    model = Model(seed, spread)
    parameters = SamplingParameters(seed=seed, **asked)
    assert speculative(model, parameters, prompt, 80, most)[0] == plain(model, parameters, prompt, 80)


def test_repeating_text_takes_fewer_steps() -> None:
    # Of the models without an early end, one whose greedy text runs in a circle.
    texts = (plain(Model(seed, 3.0), SamplingParameters(temperature=0.0), [1, 2], 200) for seed in range(100))
    seed = next(seed for seed, text in enumerate(texts) if len(text) == 200)
    text, steps = speculative(Model(seed, 3.0), SamplingParameters(temperature=0.0), [1, 2], 200, 8)
    assert len(text) == 200
    assert steps < 80


@pytest.mark.parametrize(
    ("likeliest", "draft", "gained"),
    [
        ([3, 1, 4], [3, 1], [3, 1, 4]),
        ([3, 1, 4], [3, 9], [3, 1]),
        ([3, 1, 4], [9, 1], [3]),
        ([3], [], [3]),
    ],
)
def test_greedy_rows_gain_what_the_draft_has_right_and_one_more(
    likeliest: list[int], draft: list[int], gained: list[int]
) -> None:
    rows = np.zeros((len(likeliest), 10), dtype=np.float32)
    rows[np.arange(len(likeliest)), likeliest] = 1
    assert list(verified(rows, draft, lambda row: int(row.argmax()))) == gained
