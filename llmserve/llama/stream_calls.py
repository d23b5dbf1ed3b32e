"""In which calls of llama.cpp the chunks of a step are computed where every slot has a stream of its own.

llama.cpp cuts a batch over several streams into pieces: streams whose slots are neighbours, all equally long. Each
piece is a pass over all the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from llmserve.llama.batch import Chunk
from llmserve.llama.step_budget import ATTENTION_TILE


def gaps(slots: Iterable[int]) -> list[range]:
    """The slots between those of `slots` that are not neighbours."""
    return [range(left + 1, right) for left, right in pairwise(sorted(slots)) if right - left > 1]


def calls(chunks: list[Chunk]) -> list[list[Chunk]]:
    """Chunks, which are in order of slots and so in each call: equally long ones together, the shortest first.

    A long one in a slot between single tokens is cut after its first token, which makes neighbours of those.
    """
    if len({chunk.count for chunk in chunks}) == 1:
        return [chunks]
    of_slot = {chunk.slot: chunk for chunk in chunks}
    single = {chunk.slot for chunk in chunks if chunk.count == 1}
    joining = {slot for gap in gaps(single) if all(_can_be_cut(of_slot.get(slot)) for slot in gap) for slot in gap}
    first: list[Chunk] = []
    others: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        if chunk.slot in single:
            first.append(chunk)
            continue
        if chunk.slot in joining:
            head, chunk = chunk.cut(1)
            first.append(head)
        others.setdefault(chunk.count, []).append(chunk)
    return [call for call in (first, *(others[count] for count in sorted(others))) if call]


def _can_be_cut(chunk: Chunk | None) -> bool:
    # A draft's rows are wanted together, and less than a tile takes longer than a whole one.
    return chunk is not None and not chunk.draft and chunk.count != ATTENTION_TILE
