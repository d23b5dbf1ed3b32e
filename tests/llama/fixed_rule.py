"""A token rule with one way through."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmserve.errors import InvalidRequest


class FixedRule:
    """Lets through the given tokens in order, and tells up to `told` of them in advance."""

    def __init__(self, *tokens: int, told: int = 0) -> None:
        self._tokens = list(tokens)
        self._told = told
        self.failure: InvalidRequest | None = None

    @property
    def complete(self) -> bool:
        return not self._tokens

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        for token in range(len(logits)):
            if not self.allows(token):
                logits[token] = -np.inf

    def allows(self, token: int) -> bool:
        return self._tokens[:1] == [token]

    def accept(self, token: int) -> bool:
        fits = self.allows(token)
        del self._tokens[:1]
        return fits

    def forced(self) -> list[int]:
        return self._tokens[: self._told]
