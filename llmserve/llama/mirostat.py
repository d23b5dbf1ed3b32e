"""Mirostat 2.0: text of a steady surprise."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from llmserve.llama.inverse import place_of_share
from llmserve.llama.sampling_parameters import MirostatParameters


class Mirostat:
    """One sequence's bound on surprise, which follows what was drawn.

    Algorithm 2 of arXiv:2007.14966: tokens of a surprise (-log2 p) above `mu` are left out, one of the others is drawn,
    and `mu` moves by `eta` times the difference between the surprise of the draw, among those left, and `tau`.
    It begins at twice `tau`. It takes the place of every other filter.
    """

    def __init__(self, parameters: MirostatParameters) -> None:
        self._parameters = parameters
        self._mu = 2 * parameters.tau

    def draw(self, scaled: npt.NDArray[np.float32], uniform: float) -> int:
        """The token at `uniform` (0 to 1) of what is left. `scaled`: float32 [vocabulary], divided by temperature."""
        weights = np.exp(scaled - scaled.max())
        total = float(weights.sum(dtype=np.float64))
        # The likeliest token always stays.
        least = min(1.0, total * 2.0**-self._mu)
        ids = np.flatnonzero(weights >= least)
        left = weights[ids]
        place = place_of_share(left, uniform)
        surprise = math.log2(float(left.sum(dtype=np.float64)) / float(left[place]))
        self._mu -= self._parameters.eta * (surprise - self._parameters.tau)
        return int(ids[place])
