"""Log probabilities of tokens, from the model's own logits.

They are natural logarithms of softmax over the logits as the model gave them: before bias, penalties, grammar and
temperature, so they say what the model thinks and do not depend on how a token was chosen. (vLLM does the same by
default.) A token that a mask made possible only by ruling out others keeps its own small probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmserve.llama.filters import Logits, top_k
from llmserve.openai.logprobs import Alternative, TokenLogprob

# Exponentials are taken of so many logits at a time, which bounds what a chunk of a prompt needs beside its rows.
_LOGITS_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token id, its logprob, and the likeliest ids at its place with theirs, the likeliest first.

    What the engine thread hands over; `named` turns it into text elsewhere.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    def named(self, piece: Callable[[int], bytes]) -> TokenLogprob:
        """The same with the tokens' bytes, which `piece` knows."""
        alternatives = (Alternative(_text(piece(token)), piece(token), logprob) for token, logprob in self.top)
        data = piece(self.token)
        return TokenLogprob(_text(data), data, self.logprob, tuple(alternatives))


class ScoredRows:
    """The rows of a step whose tokens want a score, kept as the model gave them while sampling alters the others.

    `logits`: float32 [rows, vocabulary]. `tops`: by row, how many alternatives it wants (0: only its own token's
    score); rows that are not in it cost nothing.
    """

    def __init__(self, logits: Logits, tops: Mapping[int, int]) -> None:
        self._places = {row: place for place, row in enumerate(tops)}
        self._tops = dict(tops)
        self._rows: Logits = logits[list(tops)] if tops else logits[:0]
        self._normalisers: list[float] = log_normalisers(self._rows).tolist() if tops else []

    def score(self, row: int, token: int) -> TokenScore:
        """The score of `token`, which was chosen in `row`."""
        place = self._places[row]
        return _score(self._rows[place], token, self._normalisers[place], self._tops[row])


def prompt_scores(rows: Logits, following: Sequence[int], top: int) -> list[TokenScore]:
    """The scores of a prompt's tokens, from the rows of one chunk of it.

    `rows`: float32 [tokens, vocabulary], the logits after each of the chunk's tokens; `following`: the token that comes
    next in the prompt after each of them. A prompt's first token follows nothing, so it has no score; the last row of
    the last chunk belongs to the answer.
    """
    normalisers = log_normalisers(rows).tolist()
    return [
        _score(row, token, normaliser, top) for row, token, normaliser in zip(rows, following, normalisers, strict=True)
    ]


def log_normalisers(rows: Logits) -> npt.NDArray[np.float64]:
    """log(sum(exp(row))) of each row: a logit minus it is the logprob. `rows`: float32 [rows, vocabulary]."""
    peaks = rows.max(axis=1, initial=-np.inf)
    sums = np.empty(len(rows), dtype=np.float64)
    step = max(1, _LOGITS_AT_ONCE // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        shifted = rows[some] - peaks[some, None]
        np.exp(shifted, out=shifted).sum(axis=1, dtype=np.float64, out=sums[some])
    logarithms: npt.NDArray[np.float64] = peaks.astype(np.float64) + np.log(sums)
    return logarithms


def first_of_prompt(token: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """The entry of a prompt's first token, which follows nothing and so has no logprob."""
    data = piece(token)
    return TokenLogprob(_text(data), data, None)


def _score(row: Logits, token: int, normaliser: float, top: int) -> TokenScore:
    if not top:
        return TokenScore(token, float(row[token]) - normaliser)
    likeliest = top_k(row, top)
    likeliest = likeliest[np.argsort(-row[likeliest], kind="stable")]
    logprobs = row[likeliest].astype(np.float64) - normaliser
    return TokenScore(
        token, float(row[token]) - normaliser, tuple(zip(likeliest.tolist(), logprobs.tolist(), strict=True))
    )


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
