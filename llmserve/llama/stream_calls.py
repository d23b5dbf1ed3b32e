"""In which calls of llama.cpp the chunks of a step are computed where every slot has a stream of its own.

llama.cpp cuts a batch over several streams into pieces: streams whose slots are neighbours, all equally long. Each
piece is a pass over all the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from llmserve.llama.batch import Chunk
from llmserve.llama.step_budget import ATTENTION_TILE

# ggml's CPU kernels take so many rows at once; those that remain are computed one by one.
ROW_TILE = 4
# Gaps that are filled with tokens nobody wants: a pass over the weights costs as much as about so many rows.
WIDEST_PADDED_GAP = 3


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


def padding(slots: Sequence[int], is_free: Callable[[int], bool]) -> list[int]:
    """Where a token that is forgotten at once makes a step of one token for each of `slots`, in order, cheaper.

    It joins neighbours, or completes a tile of rows. `is_free` says whether a slot may have one.
    """
    if slots[-1] - slots[0] + 1 == len(slots) and len(slots) % ROW_TILE != ROW_TILE - 1:
        return []
    widest = min(WIDEST_PADDED_GAP, len(slots) // ROW_TILE)
    added = [slot for gap in gaps(slots) if len(gap) <= widest and all(map(is_free, gap)) for slot in gap]
    rows = len(slots) + len(added)
    if rows > ROW_TILE and rows % ROW_TILE == ROW_TILE - 1:
        added += [slot for slot in (slots[-1] + 1, slots[0] - 1) if is_free(slot)][:1]
    return sorted(added)


def _can_be_cut(chunk: Chunk | None) -> bool:
    # A draft's rows are wanted together, and less than a tile takes longer than a whole one.
    return chunk is not None and not chunk.draft and chunk.count != ATTENTION_TILE
