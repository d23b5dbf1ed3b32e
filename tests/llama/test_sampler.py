from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.llama.sampler import Sampler, SamplingParameters
from llmserve.llama.sampling_parameters import DryParameters, MirostatParameters, XtcParameters

# The smallest number above 0 that a request may state.
SMALLEST = 2.0**-126


def row(*logits: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(logits, dtype=np.float32)


def sampler(prompt: list[int] | None = None, index: int = 0, **parameters: Any) -> Sampler:
    return Sampler(SamplingParameters(**{"seed": 7, **parameters}), prompt or [], index)


def draws(of: Sampler, logits: np.ndarray[Any, np.dtype[np.float32]], count: int = 4000) -> Counter[int]:
    return Counter(of.draw(logits.copy()) for _ in range(count))


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("size", [5, 255, 256, 257, 3000])
def test_draws_follow_the_distribution(temperature: float, size: int) -> None:
    logits = np.random.default_rng(size).normal(0, 2, size).astype(np.float32)
    expected = softmax(logits / temperature)
    counts = draws(sampler(temperature=temperature), logits, 6000)
    likely = np.argsort(-expected)[:5]
    for token in likely:
        # Five standard deviations of a binomial: a wrong distribution fails, a fair one does not.
        spread = 5 * np.sqrt(expected[token] * (1 - expected[token]) / 6000)
        assert abs(counts[int(token)] / 6000 - expected[token]) < spread


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"top_k": 2}, {3, 2}),
        ({"top_p": 0.6}, {3}),
        ({"top_p": 0.7}, {3, 2}),
        ({"min_p": 0.2}, {3, 2}),
        ({"top_k": 3, "top_p": 0.99}, {3, 2, 1}),
        ({"top_k": 1, "temperature": 2.0}, {3}),
        ({"min_p": 0.2, "top_p": 0.5}, {3}),
        # The entropy is 0.96, the surprise of token 2 is 1.47 and that of token 3 is 0.45: a little further off.
        ({"typical_p": 0.2}, {2}),
        ({"typical_p": 0.8}, {3, 2}),
        ({"xtc": XtcParameters(1.0, 0.2)}, {2, 1, 0}),
        ({"xtc": XtcParameters(0.0, 0.2)}, {0, 1, 2, 3}),
        ({"xtc": XtcParameters(1.0, 0.09), "top_k": 3}, {1}),
        ({"mirostat": MirostatParameters(tau=0.5, eta=0.0), "top_k": 1}, {3}),
        ({"mirostat": MirostatParameters(tau=1.1, eta=0.0), "top_k": 1}, {3, 2}),
        ({}, {0, 1, 2, 3}),
    ],
)
def test_filters_leave_the_likeliest(parameters: dict[str, float], expected: set[int]) -> None:
    logits = row(*np.log([0.03, 0.1, 0.23, 0.64]))
    assert set(draws(sampler(**parameters), logits)) == expected


def test_temperature_comes_before_the_filters() -> None:
    logits = row(*np.log([0.6, 0.4]))
    # At temperature 0.5 the larger has 0.69 of the probability, and is alone enough for top-p.
    assert set(draws(sampler(top_p=0.65), logits, 300)) == {0, 1}
    assert set(draws(sampler(top_p=0.65, temperature=0.5), logits, 300)) == {0}


def test_xtc_strikes_as_often_as_asked() -> None:
    logits = row(*np.log([0.5, 0.5 - 1e-3, 1e-3]))
    struck = draws(sampler(xtc=XtcParameters(0.25, 0.4)), logits, 6000)
    # Without a strike half of the draws are token 0, with one none is.
    assert abs(struck[0] / 6000 - 0.375) < 0.035


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_top_p_over_a_flat_vocabulary_sorts_what_it_must(top_p: float) -> None:
    logits = np.random.default_rng(1).normal(0, 0.1, 20_000).astype(np.float32)
    order = np.argsort(-logits, kind="stable")
    kept = int(np.searchsorted(np.cumsum(softmax(logits)[order]), top_p)) + 1
    allowed = set(order[: kept + 2].tolist())
    assert set(draws(sampler(top_p=top_p), logits, 300)) <= allowed


def test_a_seed_and_an_index_decide_every_draw() -> None:
    logits = row(*range(8))
    first = [sampler(index=0).draw(logits) for _ in range(3)]
    assert len(set(first)) == 1
    streams = [[s.draw(logits) for _ in range(50)] for s in (sampler(index=0), sampler(index=0), sampler(index=1))]
    assert streams[0] == streams[1] != streams[2]


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_every_allowed_seed_works(seed: int) -> None:
    assert sampler(seed=seed).draw(row(0, 0, 0)) in {0, 1, 2}


def test_bias_and_bans_move_a_row_in_place() -> None:
    logits = row(1, 2, 3)
    sampler(logit_bias={0: 5.0}, banned=(2,)).adjust(logits)
    assert logits.tolist() == [6, 2, float("-inf")]


def test_penalties_count_what_was_written() -> None:
    of = sampler(frequency_penalty=0.5, presence_penalty=1.0)
    for token in (1, 1, 2):
        of.accept(token)
    logits = row(0, 0, 0)
    of.adjust(logits)
    assert logits.tolist() == [0, -2.0, -1.5]


def test_repetition_penalty_counts_the_prompt_and_pushes_by_sign() -> None:
    of = sampler(prompt=[0], repetition_penalty=2.0)
    of.accept(1)
    logits = row(4, -4, 4)
    of.adjust(logits)
    assert logits.tolist() == [2, -8, 4]


def test_a_stage_that_strikes_at_random_leaves_the_draws_alone() -> None:
    logits = row(*np.log([0.4, 0.3, 0.2, 0.1]))
    never, plain = sampler(xtc=XtcParameters(0.0)), sampler()
    assert [never.draw(logits) for _ in range(50)] == [plain.draw(logits) for _ in range(50)]


def test_stages_on_logits_follow_each_other() -> None:
    of = sampler(
        prompt=[1, 2, 3, 1, 2],
        logit_bias={3: 4.0},
        repetition_penalty=2.0,
        dry=DryParameters(1.5, allowed_length=2),
        banned=(0,),
    )
    logits = row(5, 5, 5, 0, 5)
    of.adjust(logits)
    # Token 3: 0 + 4, halved because it occurred, less 1.5 because it would continue "1 2".
    assert logits.tolist() == [float("-inf"), 2.5, 2.5, 0.5, 5]
    assert of.adjusts


def test_dry_breaks_at_the_texts_of_tokens() -> None:
    prompt = [1, 2, 3, 1, 2]
    parameters = SamplingParameters(dry=DryParameters(1.0, breakers=("x",)))
    logits = row(0, 0, 0, 0)
    Sampler(parameters, prompt, piece=lambda token: b"x" if token == 1 else b"y").adjust(logits)
    assert logits.tolist() == [0, 0, 0, 0]
    Sampler(parameters, prompt).adjust(logits)
    assert logits.tolist() == [0, 0, 0, -1]


def test_nothing_asked_means_nothing_to_adjust() -> None:
    assert not sampler(temperature=0).adjusts
    assert sampler(temperature=0).greedy


def test_a_draw_never_lands_on_a_ruled_out_token() -> None:
    logits = row(*([float("-inf")] * 300), 1.0, *([float("-inf")] * 300))
    assert set(draws(sampler(), logits, 200)) == {300}


@st.composite
def extreme_parameters(draw: st.DrawFn) -> SamplingParameters:
    """Whatever a request may state, most of it at its bounds."""

    def one_of(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    return SamplingParameters(
        temperature=one_of(1e-5, 1e-3, 0.7, 1.0, 2.0),
        top_k=one_of(0, 1, 2, 40, 1_000_000),
        top_p=one_of(1.0, SMALLEST, 0.5, 0.999999),
        min_p=one_of(0.0, SMALLEST, 0.05, 1.0),
        typical_p=one_of(1.0, SMALLEST, 0.2, 0.999999),
        frequency_penalty=one_of(0.0, -2.0, 2.0),
        presence_penalty=one_of(0.0, -2.0, 2.0),
        repetition_penalty=one_of(1.0, SMALLEST, 10.0),
        repeat_last_n=one_of(-1, 0, 3),
        dry=one_of(None, DryParameters(100, base=10, allowed_length=0), DryParameters(SMALLEST, base=1)),
        xtc=one_of(None, XtcParameters(1, 0), XtcParameters(1, SMALLEST), XtcParameters(1, 0.5)),
        mirostat=one_of(None, MirostatParameters(0, 1), MirostatParameters(100, 1), MirostatParameters(SMALLEST, 0)),
        seed=draw(st.integers(0, 1000)),
    )


@settings(max_examples=300)
@given(extreme_parameters(), st.sampled_from([5, 256, 300, 1500]), st.integers(0, 1000), st.booleans())
def test_whatever_is_asked_a_possible_token_is_drawn(
    parameters: SamplingParameters, size: int, seed: int, follows_a_grammar: bool
) -> None:
    random = np.random.default_rng(seed)
    prompt = random.integers(size, size=20).tolist()
    one = Sampler(parameters, prompt)
    for _ in range(4):
        logits = (random.standard_normal(size) * random.choice([0.01, 1, 60])).astype(np.float32)
        one.adjust(logits)
        if follows_a_grammar:
            logits[random.permutation(size)[random.integers(1, 4) :]] = -np.inf
        # The engine refuses a row without any.
        if np.isfinite(logits.max()):
            token = one.draw(logits)
            assert np.isfinite(logits[token])
            one.accept(token)
