"""Finding the place in a row of weights at which their running sum reaches a share of the whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float32]

# A running sum over a whole vocabulary costs more than everything else about a draw, so the block is found first.
_BLOCK = 256


def place_of_share(weights: Weights, share: float) -> int:
    """The first place whose running sum exceeds `share` (0 to 1, exclusive) of the sum; its weight is never 0.

    With `share` uniform this draws from the weights, by inverting their distribution. They need not sum to 1; at
    least one must be above 0.
    """
    sums = _block_sums(weights)
    ends = np.cumsum(sums)
    target = share * ends[-1]
    block = min(int(np.searchsorted(ends, target, side="right")), len(ends) - 1)
    start = ends[block - 1] if block else 0.0
    within = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    place = block * _BLOCK + int(np.searchsorted(within, target - start, side="right"))
    # The sum of a block and the running sum within it round differently, so the search can step past the end.
    return place if place < len(weights) and weights[place] > 0 else int(np.argmax(weights))


def count_for_mass(weights: Weights, mass: float) -> int:
    """How many of the first weights it takes for their sum to reach `mass`; all of them if they never do."""
    ends = np.cumsum(_block_sums(weights))
    block = int(np.searchsorted(ends, mass, side="left"))
    if block == len(ends):
        return len(weights)
    start = ends[block - 1] if block else 0.0
    within = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    return min(block * _BLOCK + int(np.searchsorted(within, mass - start, side="left")) + 1, len(weights))


def _block_sums(weights: Weights) -> npt.NDArray[np.float64]:
    """Sums of consecutive blocks, the last one perhaps shorter. A block's sum is exact to about 1e-6 of itself."""
    whole = len(weights) // _BLOCK
    sums = np.empty(whole + 1, dtype=np.float64)
    weights[: whole * _BLOCK].reshape(whole, _BLOCK).sum(axis=1, out=sums[:whole])
    sums[whole] = weights[whole * _BLOCK :].sum()
    return sums
