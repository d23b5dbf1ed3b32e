"""The filters against definitions by sorting, and against llama.cpp."""

from __future__ import annotations

from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.llama.filters import candidates, top_k, top_p, typical, without_top_choices
from llmserve.llama.sampling_parameters import SamplingParameters, XtcParameters
from tests.llama.native_sampler import native

Row = np.ndarray[Any, np.dtype[np.float32]]


def normal_row(size: int, spread: float, seed: int = 0) -> Row:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def weights_of(logits: Row) -> Row:
    return np.exp(logits - logits.max())


rows = st.builds(
    normal_row,
    st.sampled_from([1, 2, 7, 255, 256, 257, 700, 1500]),
    st.sampled_from([0.0, 0.3, 2.5, 8.0]),
    st.integers(0, 1000),
)
# Rounded logits have many ties, where "the largest" is not one answer.
tied_rows = rows.map(lambda row: np.round(row))


@settings(deadline=None, max_examples=80)
@given(rows | tied_rows, st.integers(1, 1600))
def test_top_k_is_the_k_largest_and_of_equals_the_first(row: Row, k: int) -> None:
    expected = np.argsort(-row, kind="stable")[:k]
    assert top_k(row, k).tolist() == sorted(expected.tolist())


@settings(deadline=None, max_examples=80)
@given(rows | tied_rows, st.floats(0.01, 0.999))
def test_top_p_is_the_shortest_prefix_with_the_mass(row: Row, share: float) -> None:
    weights = weights_of(row)
    kept = top_p(weights, share)
    probabilities = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    chosen = np.sort(probabilities[kept])
    assert chosen.sum() >= share - 1e-5
    assert chosen[1:].sum() <= share + 1e-5, "one fewer would not have done"
    left_out = np.delete(probabilities, kept)
    assert left_out.size == 0 or left_out.max() <= chosen[0]


large_rows = st.builds(normal_row, st.just(9000), st.sampled_from([0.3, 2.5, 8.0]), st.integers(0, 1000))


@settings(deadline=None, max_examples=60)
@given(rows | large_rows, st.floats(0.05, 0.95))
def test_typical_keeps_what_is_nearest_to_the_entropy(row: Row, share: float) -> None:
    weights = weights_of(row)
    kept = typical(weights, share)
    probabilities = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    surprise = -np.log(probabilities)
    distance = np.abs(surprise - (probabilities * surprise).sum())
    assert probabilities[kept].sum() >= share - 1e-4
    assert np.delete(distance, kept).min(initial=np.inf) >= distance[kept].max() - 1e-4
    assert probabilities[kept].sum() - probabilities[kept[np.argmax(distance[kept])]] <= share + 1e-4


@pytest.mark.parametrize(
    ("probabilities", "threshold", "expected"),
    [
        ([0.5, 0.3, 0.15, 0.05], 0.1, [2, 3]),
        ([0.5, 0.3, 0.15, 0.05], 0.2, [1, 2, 3]),
        ([0.5, 0.3, 0.15, 0.05], 0.4, [0, 1, 2, 3]),
        ([0.05, 0.15, 0.3, 0.5], 0.1, [0, 1]),
        ([1.0], 0.1, [0]),
        ([0.5, 0.0, 0.3, 0.2, 0.0], 0.0, [1, 3, 4]),
        ([0.0, 1.0, 0.0], 0.0, [0, 1, 2]),
    ],
)
def test_xtc_leaves_the_least_of_the_top_choices(
    probabilities: list[float], threshold: float, expected: list[int]
) -> None:
    assert without_top_choices(np.asarray(probabilities, dtype=np.float32), threshold).tolist() == expected


@pytest.mark.parametrize("size", [50, 3000])
@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize(
    ("parameters", "handle"),
    [
        ({"top_k": 40}, lambda: llama_cpp.llama_sampler_init_top_k(40)),
        ({"top_p": 0.9}, lambda: llama_cpp.llama_sampler_init_top_p(0.9, 1)),
        ({"min_p": 0.05}, lambda: llama_cpp.llama_sampler_init_min_p(0.05, 1)),
        ({"typical_p": 0.7}, lambda: llama_cpp.llama_sampler_init_typical(0.7, 1)),
        ({"xtc": XtcParameters(1.0, 0.1)}, lambda: llama_cpp.llama_sampler_init_xtc(1.0, 0.1, 1, 7)),
    ],
    ids=["top_k", "top_p", "min_p", "typical_p", "xtc"],
)
def test_each_filter_leaves_what_llama_cpp_leaves(
    parameters: dict[str, Any], handle: Any, spread: float, size: int
) -> None:
    row = normal_row(size, spread, seed=3)
    row[[3, 11, 17]] = np.log(np.exp(row.astype(np.float64)).sum()) - np.asarray([0.0, 0.5, 1.0])
    ids, _ = candidates(row, SamplingParameters(**parameters), True)
    with native(handle()) as sampler:
        left = sampler.apply(row)
    # Sums in float32 and in float64 may place the border one token apart.
    assert len(set(ids.tolist()) ^ set(left)) <= 2
    assert len(left) < size


def test_filters_follow_each_other_on_what_is_left() -> None:
    row = np.log(np.asarray([0.4, 0.3, 0.2, 0.06, 0.04], dtype=np.float32))
    parameters = SamplingParameters(top_k=4, min_p=0.2, top_p=0.7)
    ids, weights = candidates(row, parameters, False)
    # min-p drops 0.06 and 0.04; of the 0.9 left, 0.4 and 0.3 are more than 0.7.
    assert ids.tolist() == [0, 1]
    assert weights == pytest.approx([1, 0.75])


def test_ruled_out_tokens_never_stay_beside_possible_ones() -> None:
    row = np.full(600, -np.inf, dtype=np.float32)
    row[[5, 300]] = 1.0
    for parameters in ({"top_p": 0.9}, {"min_p": 0.1}, {"typical_p": 0.9}, {"top_k": 2}):
        ids, _ = candidates(row, SamplingParameters(**parameters), False)
        assert set(ids.tolist()) <= {5, 300}
