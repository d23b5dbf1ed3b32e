"""Choosing the next token of each row, vectorised over the vocabulary.

The stages, in order:

1. `adjust`, on logits: bias, repetition, frequency and presence penalties, DRY, bans. A grammar's mask comes after it.
2. `draw`, on probabilities: temperature, min-p, top-k, typical, top-p, XTC, then one draw. Mirostat takes the place of
   all the filters.

Temperature stands before the filters, as in OpenAI's API and in vLLM, so that `temperature` with `top_p` gives the
distribution that clients of those know; llama.cpp has it last. Beyond that the order is llama.cpp's, except that min-p
precedes top-p as in vLLM. A row at temperature 0 takes the largest logit of stage 1, whatever else is asked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmserve.llama.dry import Dry
from llmserve.llama.filters import Logits, candidates
from llmserve.llama.inverse import place_of_share
from llmserve.llama.mirostat import Mirostat
from llmserve.llama.penalties import Penalties
from llmserve.llama.sampling_parameters import SamplingParameters

__all__ = ["Logits", "Sampler", "SamplingParameters"]

# Dividing by less than this overflows float32; the likeliest token is all that would be left anyway.
_GREEDY_BELOW = 1e-5


class Sampler:
    """One sequence's sampling state: its random stream and what its penalties have counted.

    The random stream depends on `seed` and `index` (which of a request's `n` answers this is) alone, and moves by one
    draw per token, so a sequence that was preempted goes on as if nothing had happened, and a draft that is checked
    position by position gives the same text as none. XTC's own stream does likewise.

    `prompt` is counted by the repetition penalty and searched by DRY, which looks for its breakers in the text that
    `piece` gives for a token; without `piece` no passage is ever broken.
    """

    def __init__(
        self,
        parameters: SamplingParameters,
        prompt: list[int],
        index: int = 0,
        piece: Callable[[int], bytes] | None = None,
    ) -> None:
        p = self._parameters = parameters
        seed = np.random.SeedSequence(None if p.seed is None else [p.seed & 0xFFFF_FFFF_FFFF_FFFF, index])
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._xtc_random = np.random.Generator(np.random.PCG64(seed.spawn(1)[0])) if p.xtc is not None else None
        self._penalties = Penalties(p, prompt) if p.penalises else None
        self._dry = Dry(p.dry, prompt, piece or _any_text) if p.dry is not None else None
        self._mirostat = Mirostat(p.mirostat) if p.mirostat is not None else None
        self._bias_ids = np.fromiter(p.logit_bias, dtype=np.int64)
        self._bias_values = np.fromiter(p.logit_bias.values(), dtype=np.float32)
        self._banned = np.asarray(p.banned, dtype=np.int64)

    @property
    def greedy(self) -> bool:
        return self._parameters.temperature < _GREEDY_BELOW

    @property
    def adjusts(self) -> bool:
        """Whether `adjust` could change anything."""
        counts = self._penalties is not None or self._dry is not None
        return counts or bool(self._bias_ids.size or self._banned.size)

    def accept(self, token: int) -> None:
        """`token` was chosen, by this sampler or by anything else; penalties count it from now on."""
        if self._penalties is not None:
            self._penalties.accept(token)
        if self._dry is not None:
            self._dry.accept(token)

    def adjust(self, logits: Logits) -> None:
        """Apply bias, penalties and bans to one row, in place. `logits`: float32 [vocabulary]."""
        if self._bias_ids.size:
            logits[self._bias_ids] += self._bias_values
        if self._penalties is not None:
            self._penalties.apply(logits)
        if self._dry is not None:
            self._dry.apply(logits)
        if self._banned.size:
            logits[self._banned] = -np.inf

    def draw(self, logits: Logits) -> int:
        """Sample from one row at a temperature above 0. `logits`: float32 [vocabulary], at least one of them finite."""
        p = self._parameters
        scaled = logits / np.float32(p.temperature) if p.temperature != 1 else logits
        uniform = self._random.random()
        if self._mirostat is not None:
            return self._mirostat.draw(scaled, uniform)
        if not p.filters:
            weights = np.subtract(scaled, scaled.max())
            return place_of_share(np.exp(weights, out=weights), uniform)
        strikes = p.xtc is not None and self._xtc_random is not None and self._xtc_random.random() < p.xtc.probability
        ids, left = candidates(scaled, p, strikes)
        return int(ids[place_of_share(left, uniform)])


def _any_text(_: int) -> bytes:
    """Stands in for tokens' texts where nobody gave them: some text, without any breaker."""
    return b"\0"
