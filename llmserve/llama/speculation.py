"""Whether checking a draft pays, and how long a draft should be: pure decisions from measured times and hits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmserve.llama.draft import Drafter

MOST_DRAFTED = 8
# Weight of the newest step in the running means, and how much a step of the past fades with each new one.
_STEP_WEIGHT = 1 / 32
# What share of a step's time is taken to go by its rows until steps of different sizes were measured, and how strongly
# (in rows squared) that is held against measurements. Without new ones it slowly returns, so drafts are tried again.
_ASSUMED_SHARE = 0.3
_ASSUMED_WEIGHT = 0.05
# A sequence starts as if so many drafted tokens had been tried, and forgets by this factor with each draft.
_ASSUMED_TRIALS = 2.0
_MEMORY = 0.9
# The same for all sequences together, and what they start from.
_SHARED_TRIALS, _SHARED_MEMORY, _ASSUMED_RATE = 20.0, 0.99, 0.6
# Text that a rule forces is split into the expected tokens almost always.
_FORCED_TRIALS, _FORCED_RATE = 5.0, 0.95
# A row must promise this much more than it costs: it also takes a cell of the cache and lengthens others' gaps.
_MARGIN = 1.15


class StepCost:
    """What one more row costs in a decoding step, from the times of past ones. One for all sequences.

    A step's time is taken as `fixed + per_row * rows`, fitted by least squares over recent steps of any size.
    """

    def __init__(self) -> None:
        self._rows = 0.0
        self._seconds = 0.0
        self._variance = 0.0
        self._covariance = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """A step without prefill computed `rows` tokens, those of drafts included, in `seconds`."""
        weight = _STEP_WEIGHT if self._seconds else 1.0
        rows_off, seconds_off = rows - self._rows, seconds - self._seconds
        self._rows += weight * rows_off
        self._seconds += weight * seconds_off
        self._variance = (1 - weight) * (self._variance + weight * rows_off * rows_off)
        self._covariance = (1 - weight) * (self._covariance + weight * rows_off * seconds_off)

    def price(self, decoding: int) -> float:
        """What a row costs, in tokens: how many of them its time would give in a step of `decoding` plain rows.

        0 to 1; near 1 where rows share nothing, as in a full batch, so that no guess is worth it. `decoding` is at
        least 1.
        """
        if not self._seconds:
            return _ASSUMED_SHARE
        mean = self._seconds / self._rows
        assumed = _ASSUMED_SHARE * mean
        per_row = (self._covariance + _ASSUMED_WEIGHT * assumed) / (self._variance + _ASSUMED_WEIGHT)
        per_row = min(max(per_row, 0.0), mean)
        step = self._seconds + per_row * (decoding - self._rows)
        return min(1.0, per_row * decoding / step) if step > 0 else 1.0


def may_pay(price: float) -> bool:
    """Whether a guess that is certainly right would be worth a row that costs `price` tokens."""
    return price * _MARGIN < 1


class Hits:
    """How often drafted tokens were right, recently: `trials` were as if `rate` of them had been, to begin with."""

    def __init__(self, rate: float, trials: float, memory: float) -> None:
        self._hits, self._trials = rate * trials, trials
        self._memory = memory

    @property
    def rate(self) -> float:
        """The probability that a drafted token is right if those before it were."""
        return self._hits / self._trials

    def observe(self, drafted: int, accepted: int) -> None:
        """Of `drafted` tokens the first `accepted` were right; those after the first wrong one were never tried."""
        self._hits = self._hits * self._memory + accepted
        self._trials = self._trials * self._memory + min(accepted + 1, drafted)

    def length(self, price: float, most: int = MOST_DRAFTED) -> int:
        """How many tokens to draft where a row costs `price` tokens: until one promises no more than that."""
        least = price * _MARGIN
        if self.rate <= least:
            return 0
        if self.rate >= 1 or least <= 0:
            return most
        return min(most, int(math.log(least) / math.log(self.rate)))


class Experience(Hits):
    """How often the drafts of all sequences of a model were right: what a new one is expected to begin with.

    Where nobody's text repeats itself, sampled text above all, a new answer then costs no rows to find that out again.
    """

    def __init__(self) -> None:
        super().__init__(_ASSUMED_RATE, _SHARED_TRIALS, _SHARED_MEMORY)


class Acceptance(Hits):
    """How often one sequence's drafted tokens were right."""

    def __init__(self, experience: Experience) -> None:
        super().__init__(experience.rate, _ASSUMED_TRIALS, _MEMORY)
        self._experience = experience

    def observe(self, drafted: int, accepted: int) -> None:
        super().observe(drafted, accepted)
        self._experience.observe(drafted, accepted)


@dataclass(slots=True)
class _Guess:
    """A draft, the length of the text it was made for, and the hits it is counted among."""

    start: int
    tokens: list[int]
    hits: Hits


class Speculation:
    """One sequence's drafts: made where they pay, and their hits counted even where they are not checked.

    A draft that does not pay is not given to the model but remembered, and compared with what the model writes anyway.
    So a sequence whose text begins to repeat itself is noticed without having cost a row.

    `forced` may be set to what tells the tokens that a rule leaves no choice about: a model that may write nothing but
    the next key of an object is drafted that key. They are checked like others, since the same text can be split into
    other tokens.
    """

    def __init__(self, drafter: Drafter, experience: Experience) -> None:
        self._drafter = drafter
        self.acceptance = Acceptance(experience)
        self.forced: Callable[[], list[int]] | None = None
        self._splits = Hits(_FORCED_RATE, _FORCED_TRIALS, _MEMORY)
        self._guess: _Guess | None = None

    def draft(self, tokens: Sequence[int], price: float, most: int = MOST_DRAFTED) -> list[int]:
        """Tokens to check in the next step, at most `most`; empty where it does not pay. Once per decoding step.

        `tokens` is the whole text so far. `price` is `StepCost.price`; the caller bounds `most` by what the step, the
        cache and the answer's own limit have room for, and says 0 where the batch is full.
        """
        self._count_guess(tokens)
        forced = self.forced()[:MOST_DRAFTED] if self.forced is not None and most > 0 else []
        proposal = self._drafter.propose(tokens, 0 if forced else MOST_DRAFTED)
        hits: Hits = self.acceptance
        if forced:
            proposal, hits = forced, self._splits
        self._guess = _Guess(len(tokens), proposal, hits) if proposal else None
        return proposal[: hits.length(price, max(0, most))]

    def _count_guess(self, tokens: Sequence[int]) -> None:
        guess = self._guess
        if guess is None:
            return
        written = tokens[guess.start : guess.start + len(guess.tokens)]
        hits = 0
        while hits < len(written) and written[hits] == guess.tokens[hits]:
            hits += 1
        guess.hits.observe(min(len(guess.tokens), len(written)), hits)
