"""Choosing the next token of each row, vectorised over the vocabulary.

The order is that of the field's other servers: bias and penalties, constraint, temperature, then min-p, top-k and
top-p on what is left, then one draw. A row at temperature 0 takes its largest logit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]

# top-p first looks at this many of the largest logits and sorts the rest only where they do not hold enough mass.
_TOP_P_CANDIDATES = 1024
# The inverse of the cumulative distribution is found block by block, which saves a pass over the whole vocabulary.
_BLOCK = 256
# Dividing by less than this overflows float32; the likeliest token is all that would be left anyway.
_GREEDY_BELOW = 1e-5


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """One sequence's sampling, as asked. `top_k` 0 and `top_p` 1 switch those off; `repetition_penalty` 1 likewise.

    `banned` are token ids that must not be chosen (the end-of-generation tokens under `ignore_eos`).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned: tuple[int, ...] = ()
    seed: int | None = None

    @property
    def penalises(self) -> bool:
        return self.frequency_penalty != 0 or self.presence_penalty != 0 or self.repetition_penalty != 1


class Sampler:
    """One sequence's sampling state: its random stream and the tokens its penalties count.

    The random stream depends on `seed` and `index` (which of a request's `n` answers this is) alone, and moves by one
    draw per token, so a sequence that was preempted goes on as if nothing had happened.
    """

    def __init__(self, parameters: SamplingParameters, prompt: list[int], index: int = 0) -> None:
        self._parameters = parameters
        entropy = None if parameters.seed is None else [parameters.seed & 0xFFFF_FFFF_FFFF_FFFF, index]
        self._random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        self._counts: dict[int, int] = {}
        self._seen_in_prompt = (
            np.unique(np.asarray(prompt, dtype=np.int64)) if parameters.repetition_penalty != 1 else None
        )
        self._bias_ids = np.fromiter(parameters.logit_bias, dtype=np.int64)
        self._bias_values = np.fromiter(parameters.logit_bias.values(), dtype=np.float32)
        self._banned = np.asarray(parameters.banned, dtype=np.int64)

    @property
    def greedy(self) -> bool:
        return self._parameters.temperature < _GREEDY_BELOW

    @property
    def adjusts(self) -> bool:
        """Whether `adjust` would change anything."""
        return bool(self._bias_ids.size or self._banned.size or self._parameters.penalises)

    def accept(self, token: int) -> None:
        """`token` was chosen; penalties count it from now on."""
        if self._parameters.penalises:
            self._counts[token] = self._counts.get(token, 0) + 1

    def adjust(self, logits: Logits) -> None:
        """Apply bias, bans and penalties to one row, in place. `logits`: float32 [vocabulary]."""
        if self._bias_ids.size:
            logits[self._bias_ids] += self._bias_values
        if self._parameters.penalises:
            self._penalise(logits)
        if self._banned.size:
            logits[self._banned] = -np.inf

    def draw(self, logits: Logits) -> int:
        """Sample from one row at a temperature above 0. `logits`: float32 [vocabulary]."""
        p = self._parameters
        scaled = logits / np.float32(p.temperature) if p.temperature != 1 else logits
        uniform = self._random.random()
        if p.top_k == 0 and p.top_p >= 1 and p.min_p == 0:
            return _draw_from_all(scaled, uniform)
        candidates, weights = _candidates(scaled, p.top_k, p.top_p, p.min_p)
        cumulative = np.cumsum(weights, dtype=np.float64)
        position = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
        return int(candidates[min(position, len(candidates) - 1)])

    def _penalise(self, logits: Logits) -> None:
        p = self._parameters
        ids = np.fromiter(self._counts, dtype=np.int64, count=len(self._counts))
        counts = np.fromiter(self._counts.values(), dtype=np.float32, count=len(self._counts))
        if self._seen_in_prompt is not None:
            # The CTRL paper's penalty (arXiv:1909.05858) over prompt and answer, divided or multiplied by sign.
            seen = np.union1d(self._seen_in_prompt, ids)
            values = logits[seen]
            factor = np.float32(p.repetition_penalty)
            logits[seen] = np.where(values > 0, values / factor, values * factor)
        if ids.size:
            # OpenAI's formula: each occurrence in the answer costs `frequency`, the first one `presence` as well.
            logits[ids] -= counts * np.float32(p.frequency_penalty) + np.float32(p.presence_penalty)


def _draw_from_all(scaled: Logits, uniform: float) -> int:
    """One draw from softmax(scaled) by inverting the cumulative distribution in two levels."""
    weights = np.exp(scaled - scaled.max())
    padded = -len(weights) % _BLOCK
    blocks = (np.pad(weights, (0, padded)) if padded else weights).reshape(-1, _BLOCK)
    ends = np.cumsum(blocks.sum(axis=1, dtype=np.float64))
    target = uniform * ends[-1]
    block = min(int(np.searchsorted(ends, target, side="right")), len(ends) - 1)
    within = np.cumsum(blocks[block], dtype=np.float64)
    start = ends[block - 1] if block else 0.0
    position = int(np.searchsorted(within, target - start, side="right"))
    token = block * _BLOCK + min(position, _BLOCK - 1)
    # Rounding between the two levels can step past the last token that has any weight.
    return token if token < len(weights) and weights[token] > 0 else int(np.argmax(weights))


def _candidates(scaled: Logits, top_k: int, top_p: float, min_p: float) -> tuple[npt.NDArray[np.int64], Logits]:
    """Token ids that survive the three filters, largest first, and their unnormalised weights."""
    largest = scaled.max()
    size = len(scaled)
    count = min(top_k or size, size)
    if top_k == 0 and min_p > 0:
        count = max(1, int(np.count_nonzero(scaled >= largest + np.log(min_p))))
    # The mass of the whole vocabulary, where top-p is the only filter and sorting all of it may be avoided.
    total = None
    if count == size > _TOP_P_CANDIDATES:
        total = float(np.exp(scaled - largest).sum(dtype=np.float64))
    ids = _largest(scaled, min(count, _TOP_P_CANDIDATES) if total is not None else count)
    weights = np.exp(scaled[ids] - largest)
    if total is not None and weights.sum(dtype=np.float64) < top_p * total:
        ids = _largest(scaled, count)
        weights = np.exp(scaled[ids] - largest)
    if min_p > 0:
        kept = max(1, int(np.count_nonzero(weights >= min_p)))
        ids, weights = ids[:kept], weights[:kept]
    if top_p < 1:
        cumulative = np.cumsum(weights, dtype=np.float64)
        kept = int(np.searchsorted(cumulative, top_p * (total or cumulative[-1]), side="left")) + 1
        ids, weights = ids[:kept], weights[:kept]
    return ids, weights


def _largest(scaled: Logits, count: int) -> npt.NDArray[np.int64]:
    """Ids of the `count` largest logits, largest first; equal ones by id, so that the result is the same everywhere."""
    if count < len(scaled):
        ids = np.argpartition(scaled, len(scaled) - count)[len(scaled) - count :]
        ids.sort()
    else:
        ids = np.arange(len(scaled))
    return ids[np.argsort(-scaled[ids], kind="stable")].astype(np.int64)
