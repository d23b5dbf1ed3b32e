from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve.llama.inverse import count_for_mass, place_of_share


def some_weights(size: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Mostly zeros and small ones, as after a mask."""
    random = np.random.default_rng(seed)
    weights = random.exponential(1.0, size) * (random.random(size) < 0.3)
    weights[random.integers(size)] = 1.0
    return weights.astype(np.float32)


weights = st.builds(some_weights, st.sampled_from([1, 2, 255, 256, 257, 512, 1300]), st.integers(0, 10_000))


@settings(deadline=None, max_examples=150)
@given(weights, st.floats(0, 1, exclude_max=True))
def test_a_share_lands_where_the_running_sum_passes_it(row: Any, share: float) -> None:
    place = place_of_share(row, share)
    sums = np.cumsum(row, dtype=np.float64) / row.sum(dtype=np.float64)
    assert row[place] > 0
    assert sums[place] >= share - 1e-5
    assert place == 0 or sums[place - 1] <= share + 1e-5


@settings(deadline=None, max_examples=150)
@given(weights, st.floats(0.001, 1.5))
def test_as_many_as_reach_the_mass(row: Any, share: float) -> None:
    mass = share * float(row.sum(dtype=np.float64))
    count = count_for_mass(row, mass)
    sums = np.cumsum(row, dtype=np.float64)
    assert 1 <= count <= len(row)
    assert sums[count - 1] >= mass * (1 - 1e-5) or count == len(row)
    assert count == 1 or sums[count - 2] <= mass * (1 + 1e-5)


@pytest.mark.parametrize("size", [1, 256, 5000])
def test_the_largest_share_still_lands_on_a_weight(size: int) -> None:
    row = np.zeros(size, dtype=np.float32)
    row[0] = 1
    assert place_of_share(row, np.nextafter(1.0, 0.0)) == 0
