"""Keeps a rule for the answer from the thoughts before it, and the thoughts within their budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmserve.errors import InvalidRequest
from llmserve.llama.output.reasoning import ThinkingBudget
from llmserve.llama.token_rule import TokenRule


@dataclass(frozen=True, slots=True)
class Speller:
    """How a vocabulary writes text: `spell` gives a token's text, control tokens too, and `tokenize` the way back.

    `openings` are the single tokens that open thoughts.
    """

    spell: Callable[[int], str]
    tokenize: Callable[[str], list[int]]
    openings: Sequence[int] = ()


class ThoughtGate:
    """A token rule that lets a model think freely up to `budget`, and then holds it to `rule` (None: to nothing).

    Where the thoughts are not open yet, a model that is held to a rule may open them with its first token only.
    """

    def __init__(self, budget: ThinkingBudget, rule: TokenRule | None, speller: Speller) -> None:
        self._budget = budget
        self._rule = rule
        self._speller = speller
        self._openings = np.array(speller.openings, dtype=np.intp)
        self._forced: deque[int] = deque()
        self._end_when_exhausted()

    @property
    def used(self) -> int:
        """How many tokens were thought."""
        return self._budget.used

    @property
    def failure(self) -> InvalidRequest | None:
        return self._rule.failure if self._rule is not None else None

    @property
    def complete(self) -> bool:
        return self._answering and self._rule is not None and self._rule.complete

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        if self._forced:
            logits.fill(-np.inf)
            logits[self._forced[0]] = 0
        elif self._budget.inside and not self._budget.done:
            return
        elif self._rule is not None:
            opening = logits[self._openings]
            self._rule.apply(logits)
            if not self._budget.done:
                logits[self._openings] = opening

    def allows(self, token: int) -> bool:
        if self._forced:
            return token == self._forced[0]
        if self._rule is None or (self._budget.inside and not self._budget.done):
            return True
        return (not self._budget.done and token in self._speller.openings) or self._rule.allows(token)

    def accept(self, token: int) -> bool:
        if self._forced:
            return token == self._forced.popleft()
        if not self._budget.done:
            if self._rule is None or self._budget.inside or token in self._speller.openings:
                self._budget.accept(self._speller.spell(token))
                self._end_when_exhausted()
                return True
            self._budget.done = True
        return self._rule is None or self._rule.accept(token)

    def forced(self) -> list[int]:
        if self._forced:
            return list(self._forced)
        return self._rule.forced() if self._answering and self._rule is not None else []

    @property
    def _answering(self) -> bool:
        return self._budget.done and not self._forced

    def _end_when_exhausted(self) -> None:
        if self._budget.exhausted:
            self._forced.extend(self._speller.tokenize(self._budget.end()))
