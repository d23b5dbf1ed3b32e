"""Tokens that are computed for nobody and forgotten at once, where a step is cheaper with them than without.

Streams are computed in one pass over the weights where their slots are neighbours, so a slot between two that write may
get one. And ggml's CPU kernels for repacked weights take a tile of rows at once but those that remain one by one: 15
rows of a Q4_0 model were measured at 23 ms, 16 at 16 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmserve.llama.batch import Chunk
from llmserve.llama.sequence import Sequence as TokenSequence
from llmserve.llama.stream_calls import gaps

# Gaps that are filled: a pass over the weights costs as much as about so many rows.
WIDEST_FILLED_GAP = 3
# Among few rows a gap is not worth as much: there has to be about this many for each slot of it.
_ROWS_PER_FILLED_SLOT = 4
# A tile is completed where at least so many rows are wanted for each that is not.
_WANTED_PER_FILLER = 3


class Fillers:
    """What to compute beside the chunks of a call. Pure.

    `tile`: rows that the kernels take at once; 1 where they do not. `longest`: tokens of one slot. `most`: tokens of
    one call.
    """

    def __init__(self, tile: int, longest: int, most: int) -> None:
        self._tile = tile
        self._longest = longest
        self._most = most
        self._nobody = TokenSequence([0] * longest, longest, longest)

    def beside(self, call: Sequence[Chunk], slots: int, length: Callable[[int], int]) -> list[Chunk]:
        """Chunks for `call`, whose chunks are equally long and in order of slots, in a cache of so many `slots`.

        `length` says how many tokens a slot holds.
        """
        if any(chunk.draft for chunk in call):
            return []
        if call[0].count > 1:
            return self._behind(call)

        def is_free(slot: int) -> bool:
            return 0 <= slot < slots and length(slot) < self._longest

        return [self._filler(slot, length(slot), 1) for slot in self._between([c.slot for c in call], is_free)]

    def _between(self, slots: Sequence[int], is_free: Callable[[int], bool]) -> list[int]:
        """Slots that get a token beside one token for each of `slots`."""
        widest = min(WIDEST_FILLED_GAP, (len(slots) + 1) // _ROWS_PER_FILLED_SLOT)
        added = [slot for gap in gaps(slots) if len(gap) <= widest and all(map(is_free, gap)) for slot in gap]
        rows = len(slots) + len(added)
        missing = -rows % self._tile
        if missing and missing * _WANTED_PER_FILLER <= rows:
            edges = [*range(slots[-1] + 1, slots[-1] + 1 + missing), *range(slots[0] - 1, slots[0] - 1 - missing, -1)]
            outside = [slot for slot in edges if is_free(slot)]
            # Part of a tile is no better than none of it.
            added += outside[:missing] if len(outside) >= missing else []
        return sorted(added)

    def _behind(self, call: Sequence[Chunk]) -> list[Chunk]:
        """Tokens behind the parts of prompts, equally many where slots are neighbours and computed in one pass."""
        fillers: list[Chunk] = []
        for run in _neighbours(call):
            count, wanted = run[0].count, sum(chunk.count for chunk in run)
            more = next(more for more in range(self._tile) if (count + more) * len(run) % self._tile == 0)
            is_worth_it = more * len(run) * _WANTED_PER_FILLER <= wanted
            if more and is_worth_it and all(chunk.start + count + more <= self._longest for chunk in run):
                fillers += [self._filler(chunk.slot, chunk.start + count, more) for chunk in run]
        total = sum(chunk.count for chunk in (*call, *fillers))
        return fillers if total <= self._most else []

    def _filler(self, slot: int, start: int, count: int) -> Chunk:
        return Chunk(self._nobody, slot, start, count, sample=False)


def _neighbours(call: Sequence[Chunk]) -> list[list[Chunk]]:
    """The chunks of each run of slots."""
    runs: list[list[Chunk]] = []
    for chunk in call:
        if runs and runs[-1][-1].slot == chunk.slot - 1:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return runs
