"""Guessing the next tokens from the text itself, and checking the guesses against the model.

Prompt lookup: where the last few tokens occurred before, what followed them then may follow now. Answers that quote
their prompt (code being edited, documents being summarised, tools being called) are guessed well, others are not.
Source: https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence, Set

import numpy as np
import numpy.typing as npt

# An n-gram's key packs its tokens into 63 bits, which bounds both.
_TOKEN_BITS = 21
_LONGEST_NGRAM = 3
# An odd multiplier near 2**63 / golden ratio scatters neighbouring keys (Knuth, TAOCP 6.4).
_SCATTER = 0x4F1BBCDCBFA53E0B
_MASK = (1 << 63) - 1
_FIRST_BITS = 12
# Tables have at least this many slots per place, which leaves few clashes.
_ROOM = 4
# More new tokens than this are indexed by numpy at once: a prompt.
_BULK = 64


class Drafter:
    """Proposes how one sequence goes on, by the latest place where its last `longest`..`shortest` tokens occurred.

    Every n-gram has one table of places, addressed by a hash of it, in which a later place overwrites an earlier one: a
    new token costs a write per table whatever the length of the text, and so does a lookup. A place is compared with
    the text before it is used, so a clash of hashes can lose a proposal but never makes one up. A table takes 16 to 32
    bytes per token of the text.

    `ends`: tokens after which nothing is proposed.
    """

    def __init__(self, longest: int = 3, shortest: int = 2, ends: Set[int] = frozenset()) -> None:
        if not 1 <= shortest <= longest <= _LONGEST_NGRAM:
            raise ValueError(f"n-grams have 1 to {_LONGEST_NGRAM} tokens")
        self._sizes = range(longest, shortest - 1, -1)
        self._ends = ends
        self._indexed = 0
        self._clear(_FIRST_BITS)

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `tokens`, the whole text so far; empty where nothing is known.

        Between calls tokens may only have been added. `most` 0 indexes them and proposes nothing, so that a long prompt
        can be indexed elsewhere than in the engine thread. A text that repeats itself to its end is taken to go on so.
        """
        self._index(tokens)
        end = len(tokens)
        if most < 1:
            return []
        for size in self._sizes:
            if end <= size:
                continue
            place = self._tables[size][self._slot(tokens, end - size, size)]
            if place and tokens[place - size : place] == tokens[end - size : end]:
                period = end - place
                return self._until_end([tokens[place + offset % period] for offset in range(most)])
        return []

    def _until_end(self, draft: list[int]) -> list[int]:
        for position, token in enumerate(draft):
            if token in self._ends:
                return draft[: position + 1]
        return draft

    def _index(self, tokens: Sequence[int]) -> None:
        """Enter each n-gram that has a successor, under the place of that successor."""
        if _ROOM * len(tokens) > 1 << self._bits:
            self._clear((_ROOM * len(tokens)).bit_length())
        first, self._indexed = self._indexed, len(tokens)
        if self._indexed - first > _BULK:
            self._index_many(tokens, first)
            return
        for size in self._sizes:
            table = self._tables[size]
            for place in range(max(first, size), self._indexed):
                table[self._slot(tokens, place - size, size)] = place

    def _clear(self, bits: int) -> None:
        """Empty tables of `2 ** bits` slots; 0, where nothing is followed by anything, is a free one."""
        self._bits = bits
        self._tables = {size: array("i", bytes(4 << bits)) for size in self._sizes}
        self._indexed = 0

    def _index_many(self, tokens: Sequence[int], first: int) -> None:
        all_tokens = np.asarray(tokens, dtype=np.int64)
        for size in self._sizes:
            places = np.arange(max(first, size), len(tokens))
            keys = np.zeros(len(places), dtype=np.int64)
            for offset in range(size):
                keys = (keys << _TOKEN_BITS) | all_tokens[places - size + offset]
            slots = ((keys.view(np.uint64) * np.uint64(_SCATTER)) & np.uint64(_MASK)) >> np.uint64(63 - self._bits)
            # Of several places in one slot numpy leaves the last, which is the latest.
            np.frombuffer(self._tables[size], dtype=np.int32)[slots] = places

    def _slot(self, tokens: Sequence[int], start: int, size: int) -> int:
        key = 0
        for offset in range(start, start + size):
            key = (key << _TOKEN_BITS) | tokens[offset]
        return ((key * _SCATTER) & _MASK) >> (63 - self._bits)


def verified(
    rows: npt.NDArray[np.float32], draft: Sequence[int], choose: Callable[[npt.NDArray[np.float32]], int]
) -> Iterator[int]:
    """The tokens that a verify step gains, one by one: at least one, at most one more than `draft` has.

    `rows`: float32 [len(draft) + 1, vocabulary], the logits after the text's last token and after each of the draft's.
    `choose` picks the token of a row as if there were no draft (adjust, mask, draw) and the caller accepts it into
    sampler, grammar and text before it asks for the next one. A token that differs from the draft's is the right one at
    its place, since its row was computed from the right text; what comes after it was not, so it is the last. So the
    text, its distribution and a seed's stream of draws are those of decoding token by token. Stop asking when the text
    has ended.
    """
    for position, row in enumerate(rows):
        token = choose(row)
        yield token
        if position == len(draft) or token != draft[position]:
            return
