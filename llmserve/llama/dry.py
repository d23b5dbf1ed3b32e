"""DRY ("don't repeat yourself"): the longer a passage is being repeated, the less likely is its next token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from llmserve.llama.sampling_parameters import DryParameters

# A repetition counts up to this many tokens. With the usual bases it has long become impossible by then, and the bound
# keeps the first look at a prompt that is one long repetition from taking seconds.
LONGEST_REPEAT = 128
# No token comes back from a loss of this many, which float32 still holds.
_LARGEST_LOSS = 1e30
_FIRST_CAPACITY = 1024


class Dry:
    """One sequence's repeated passages.

    A token that would make the passage at the end of the text, of length n, the continuation of an earlier one loses
    `multiplier * base ** (n - allowed_length)` where n is at least `allowed_length`; of several earlier passages the
    longest counts. A breaker ends a passage, and a token that holds one is never weakened; so it is with tokens that
    stand for no text, which end a turn. Source: the sampler's first publication,
    https://github.com/oobabooga/text-generation-webui/pull/5677, with the same formula as llama.cpp.

    For every place of the text the length of the passage that ends there and also ends the text is kept up to date:
    one more token costs a pass of numpy over the `last_n` tokens, and nothing is searched again.

    `piece` gives a token's bytes.
    """

    def __init__(self, parameters: DryParameters, prompt: Sequence[int], piece: Callable[[int], bytes]) -> None:
        self._parameters = parameters
        self._piece = piece
        self._breakers = tuple(breaker.encode() for breaker in parameters.breakers if breaker)
        self._tail_bytes = max(map(len, self._breakers), default=1) - 1
        self._tail = b""
        self._largest_exponent = (
            int(np.log(_LARGEST_LOSS) / np.log(parameters.base)) if parameters.base > 1 else LONGEST_REPEAT
        )
        seen = prompt if parameters.last_n < 0 else prompt[max(0, len(prompt) - parameters.last_n) :]
        self._size = len(seen)
        self._tokens = np.zeros(max(_FIRST_CAPACITY, 2 * self._size), dtype=np.int32)
        self._tokens[: self._size] = seen
        # By place: how long the passage is that ends there and at the end of the text (the last place says nothing).
        self._lengths = np.zeros_like(self._tokens)
        self._measure(self._unbroken(seen))

    def accept(self, token: int) -> None:
        """`token` was written."""
        if self._size == len(self._tokens):
            self._make_room()
        end = self._size
        self._tokens[end] = token
        self._size += 1
        start = self._start
        if self._breaks(token):
            self._lengths[start : end + 1] = 0
            return
        # A passage that ended one place earlier goes on here, if the same token follows.
        longer = self._lengths[start : end + 1].copy()
        longer[1:] = self._lengths[start:end] + 1
        longer[0] = 1
        longer *= self._tokens[start : end + 1] == token
        np.minimum(longer, LONGEST_REPEAT, out=self._lengths[start : end + 1])

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Weaken the tokens that would lengthen a repetition, in place. `logits`: float32 [vocabulary]."""
        p = self._parameters
        start = self._start
        lengths = self._lengths[start : self._size - 1]
        ends = np.flatnonzero(lengths >= p.allowed_length)
        if ends.size == 0:
            return
        # A passage cannot reach back behind the part of the text that is looked at.
        within = np.minimum(lengths[ends], ends + 1)
        within, ends = within[within >= p.allowed_length], ends[within >= p.allowed_length]
        ids, place = np.unique(self._tokens[start + 1 + ends], return_inverse=True)
        longest = np.zeros(len(ids), dtype=np.int64)
        np.maximum.at(longest, place, within)
        exponents = np.minimum(longest - p.allowed_length, self._largest_exponent)
        losses = np.minimum(p.multiplier * np.power(p.base, exponents), _LARGEST_LOSS).astype(np.float32)
        losses[[self._is_breaker(token) for token in ids.tolist()]] = 0
        logits[ids] -= losses

    @property
    def _start(self) -> int:
        last_n = self._parameters.last_n
        return 0 if last_n < 0 else max(0, self._size - last_n)

    def _make_room(self) -> None:
        """Forget what nobody looks at any more, if that is half of it, else take twice the room."""
        start, end = self._start, self._size
        self._size = end - start
        capacity = len(self._tokens) if self._size <= len(self._tokens) // 2 else 2 * len(self._tokens)
        room = np.zeros(capacity - self._size, dtype=np.int32)
        self._tokens = np.concatenate((self._tokens[start:end], room))
        self._lengths = np.concatenate((self._lengths[start:end], room))

    def _measure(self, limit: int) -> None:
        """Fill `_lengths` for the text as it is: places whose tokens agree ever further back, up to `limit`."""
        tokens = self._tokens[: self._size]
        ends = np.arange(self._size - 1)
        for length in range(1, limit + 1):
            ends = ends[ends >= length - 1]
            ends = ends[tokens[ends - (length - 1)] == tokens[-length]]
            if ends.size == 0:
                return
            self._lengths[ends] = length

    def _unbroken(self, tokens: Sequence[int]) -> int:
        """How many of the last tokens follow the last breaker, at most `LONGEST_REPEAT`. Remembers the text's tail."""
        unbroken = 0
        for token in tokens[-LONGEST_REPEAT:]:
            unbroken = 0 if self._breaks(token) else unbroken + 1
        return unbroken

    def _breaks(self, token: int) -> bool:
        """Whether a breaker ends in `token`, the next one of the text."""
        piece = self._piece(token)
        before, self._tail = self._tail, _last(self._tail + piece, self._tail_bytes)
        if not piece:
            return True
        return any(breaker in _last(before, len(breaker) - 1) + piece for breaker in self._breakers)

    def _is_breaker(self, token: int) -> bool:
        """Whether `token` alone ends a passage, whatever stands before it."""
        piece = self._piece(token)
        return not piece or any(breaker in piece for breaker in self._breakers)


def _last(data: bytes, count: int) -> bytes:
    return data[-count:] if count else b""
