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
    ends = np.cumsum(_block_sums(weights))
    # Strictly below each sum, so that the search stops at a weight that adds something, however sums were rounded.
    target = min(share * ends[-1], np.nextafter(ends[-1], 0))
    block = int(np.searchsorted(ends, target, side="right"))
    within = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    target = min(target - (ends[block - 1] if block else 0.0), np.nextafter(within[-1], 0))
    return block * _BLOCK + int(np.searchsorted(within, target, side="right"))


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
