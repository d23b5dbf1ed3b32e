"""How often requests went on from which prefix."""

from __future__ import annotations

import zlib
from collections import OrderedDict

import numpy as np

_MOST_PREFIXES = 512


class PrefixUses:
    """Counts the prefixes that were gone on from, by length and checksum; of many, those noted last."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[int, int], int] = OrderedDict()

    def note(self, prefix: list[int], adapter: int = 0) -> None:
        """A request went on from `prefix`, as it was computed with `adapter`."""
        name = len(prefix), zlib.crc32(_bytes_of(prefix), adapter)
        self._counts[name] = self._counts.pop(name, 0) + 1
        if len(self._counts) > _MOST_PREFIXES:
            self._counts.popitem(last=False)

    def of(self, tokens: list[int], adapter: int = 0) -> int:
        """How many requests went on from `tokens` or from a prefix of them."""
        data = _bytes_of(tokens)
        total = at = 0
        checksum = adapter
        for length, wanted in sorted(self._counts):
            end = length * 4
            if end > len(data):
                break
            checksum = zlib.crc32(data[at:end], checksum)
            at = end
            if checksum == wanted:
                total += self._counts[length, wanted]
        return total


def _bytes_of(tokens: list[int]) -> bytes:
    return np.asarray(tokens, dtype=np.int32).tobytes()
