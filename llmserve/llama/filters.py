"""Which tokens stay in a row's draw: min-p, top-k, typical, top-p and XTC.

Every filter looks at the weights that the one before left and returns the places that stay, in order of token id. None
sorts a vocabulary as pairs of token and weight: top-k cuts at the k-th largest value, found among the few that exceed
a bound; top-p sorts bare values, of those tokens that can matter, and cuts at the last one it needs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmserve.llama.inverse import Weights, count_for_mass
from llmserve.llama.sampling_parameters import SamplingParameters

Places = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

_BLOCK = 256
# So many of the most typical tokens are looked at before all of them are.
_NEAR = 4096


def candidates(scaled: Logits, parameters: SamplingParameters, exclude_top: bool) -> tuple[Places, Weights]:
    """The token ids left in the draw and their weights (not normalised, the largest was 1).

    `scaled`: float32 [vocabulary], divided by the temperature. `exclude_top`: XTC strikes in this draw.
    """
    p = parameters
    peak = scaled.max()
    ids: Places | None = None
    if p.top_k:
        # Like min-p, top-k cuts at a logit, so their order makes no difference; this one leaves less to look at.
        ids = top_k(scaled, p.top_k)
    elif p.min_p > 0:
        ids = np.flatnonzero(scaled >= peak + np.float32(np.log(p.min_p)))
    weights = np.exp((scaled if ids is None else scaled[ids]) - peak)
    if p.top_k and p.min_p > 0:
        ids, weights = _left(np.flatnonzero(weights >= p.min_p), ids, weights)
    if p.typical_p < 1:
        ids, weights = _left(typical(weights, p.typical_p), ids, weights)
    if p.top_p < 1:
        ids, weights = _left(top_p(weights, p.top_p), ids, weights)
    if exclude_top and p.xtc is not None:
        ids, weights = _left(without_top_choices(weights, p.xtc.threshold), ids, weights)
    return (np.arange(len(weights)) if ids is None else ids), weights


def top_k(values: Logits, k: int) -> Places:
    """Places of the `k` largest; of equal ones at the border, the first."""
    if k >= len(values):
        return np.arange(len(values))
    pool = np.flatnonzero(values >= _bound_below_largest(values, k))
    among = values[pool]
    border = np.partition(among, len(among) - k)[len(among) - k]
    above, level = among > border, among == border
    surplus = np.count_nonzero(above) + np.count_nonzero(level) - k
    if surplus:
        level[np.flatnonzero(level)[-surplus:]] = False
    staying: Places = pool[above | level]
    return staying


def top_p(weights: Weights, share: float) -> Places:
    """The fewest of the largest weights that together reach `share` of the sum (nucleus sampling, arXiv:1904.09751)."""
    total = float(weights.sum(dtype=np.float64))
    # Weights below this do not amount to what may be left out, even if all were, so none of them is in the nucleus.
    pool = np.flatnonzero(weights >= (1 - share) * total / len(weights))
    among = np.sort(weights[pool])[::-1]
    kept = count_for_mass(among, share * total)
    # As a cut at a value it may keep some more of exactly the same weight; top-k gives those up in order.
    return pool[top_k(weights[pool], kept)]


def typical(weights: Weights, share: float) -> Places:
    """The tokens whose surprise is nearest to the entropy, as many as reach `share` of the sum (arXiv:2202.00666)."""
    pool = np.flatnonzero(weights > 0)
    among = weights[pool]
    total = among.sum(dtype=np.float64)
    surprise = np.log(np.float32(total)) - np.log(among)
    entropy = np.float32((among * surprise).sum(dtype=np.float64) / total)
    distance = np.abs(surprise - entropy)
    near = np.arange(len(among))
    if len(among) > _NEAR:
        some = np.flatnonzero(distance <= np.partition(distance, _NEAR)[_NEAR])
        # Sorting all of a vocabulary takes ten times as long as everything else here, and is seldom needed.
        if among[some].sum(dtype=np.float64) >= share * total:
            near = some
    order = near[np.argsort(distance[near])]
    kept = order[: count_for_mass(among[order], share * float(total))]
    kept.sort()
    return pool[kept]


def without_top_choices(weights: Weights, threshold: float) -> Places:
    """All but the tokens above the least likely one of those whose probability reaches `threshold`.

    XTC, "exclude top choices": https://github.com/oobabooga/text-generation-webui/pull/6335. With fewer than two such
    tokens everything stays. A threshold that is next to nothing reaches no token that is ruled out.
    """
    top = np.flatnonzero((weights >= threshold * weights.sum(dtype=np.float64)) & (weights > 0))
    if len(top) < 2:
        return np.arange(len(weights))
    staying = top[np.argmin(weights[top])]
    excluded = np.zeros(len(weights), dtype=np.bool_)
    excluded[top] = True
    excluded[staying] = False
    return np.flatnonzero(~excluded)


def _bound_below_largest(values: Logits, k: int) -> np.float32:
    """A value that the `k` largest reach: the k-th largest of the largest ones of separate blocks."""
    blocks = len(values) // _BLOCK
    if k > blocks:
        return np.float32(-np.inf)
    maxima = values[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    return np.float32(np.partition(maxima, blocks - k)[blocks - k])


def _left(places: Places, ids: Places | None, weights: Weights) -> tuple[Places, Weights]:
    """Ids and weights at `places`; `ids` None means that a weight's place is its token."""
    return (places if ids is None else ids[places]), weights[places]
