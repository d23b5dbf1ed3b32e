"""A KV cache of separate streams, one for each slot.

On a CPU this computes a step of many sequences up to half again as fast as one shared pool, since no row of attention
walks over another sequence's cells. llama.cpp computes sequences of equal length together only where their slots are
neighbours (`split_equal`), so running ones are kept close together: two groups cost two passes over the weights. A
prefix is shared by copying its bytes.
"""

from __future__ import annotations

from llmserve.llama.batch import Copy, Drop
from llmserve.llama.fillers import WIDEST_FILLED_GAP
from llmserve.llama.kv_cache import WORTHWHILE_PREFIX, KvCache, Limits
from llmserve.llama.prefix_tree import common_prefix
from llmserve.llama.stream_calls import gaps

# A slot is moved once running ones, lying apart, have cost so many rows, which is about what a move costs: a request
# that arrives before that fills the gap for free.
_MOVE_ROWS = 8


class SplitCache(KvCache):
    """`limits.cells` is divided evenly, so a sequence may have `cells // slots` tokens and room never runs out."""

    separate_streams = True

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._wasted = 0
        self._has_adapters = False

    @property
    def longest(self) -> int:
        return self.limits.cells // self.limits.slots

    def grow(self, limits: Limits) -> None:
        self._free |= set(range(self.limits.slots, limits.slots))
        self.limits = limits

    def has_room(self, tokens: list[int], promised: int, adapter: int = 0) -> bool:
        return bool(self._free or self._idle)

    def make_room(self, cells: int) -> bool:
        return True

    def _place(self, tokens: list[int], adapter: int) -> tuple[int, int]:
        self._has_adapters |= adapter != 0
        match = self._match(tokens, adapter)
        source = self._tree.holder(match) if match.length else None
        shelved = self._shelved(tokens, match.length, adapter)
        key = self._take(tokens, adapter) if shelved else None
        slot = self._choose(source if key is None and self._is_mostly(source, match.length) else None, adapter)
        own = self._own_match(slot, tokens, adapter)
        if own and own >= max(match.length, shelved):
            self._take_over(slot, own)
            return slot, own
        if slot in self._idle:
            self._evict(slot, key)
        self._free.discard(slot)
        self._held.add(slot)
        self._tree.open(slot, adapter)
        if key is not None:
            self._restore(key, slot, tokens[:shelved])
            return slot, shelved
        if source is None or source == slot or match.length < WORTHWHILE_PREFIX or not self.limits.cuttable:
            return slot, 0
        self._copy(source, slot, match.length)
        return slot, match.length

    def compact(self) -> tuple[int, int] | None:
        wasted = self._wasted_rows(self._held)
        self._wasted = self._wasted + wasted if wasted else 0
        if self._wasted < _MOVE_ROWS:
            return None
        self._wasted = 0
        moves = [(source, target) for source in self._held for target in self._free | self._idle.keys()]
        if not moves:
            return None

        def cost(move: tuple[int, int]) -> tuple[int, int, bool]:
            source, target = move
            wasted = self._wasted_rows(self._held - {source} | {target}, target, self._tree.adapter(source))
            return wasted, self._tree.length(source), target in self._idle

        source, target = best = min(moves, key=cost)
        if cost(best)[0] >= wasted or self._tree.length(source) == 0:
            return None
        if target in self._idle:
            self._evict(target)
        self._free.discard(target)
        self._tree.open(target, self._tree.adapter(source))
        self._copy(source, target, self._tree.length(source))
        self._held = self._held - {source} | {target}
        self._empty(source)
        return best

    def _choose(self, preferred: int | None, adapter: int) -> int:
        """The slot for one more sequence: close to the running ones of its adapter, then `preferred`, then far from
        those of others, then empty, then oldest."""
        oldest = {slot: age for age, slot in enumerate(self._idle)}
        others = [slot for slot in self._held if self._has_adapters and self._tree.adapter(slot) != adapter]

        def cost(slot: int) -> tuple[int, bool, int, int, int]:
            nearest = min((abs(slot - other) for other in others), default=0)
            wasted = self._wasted_rows(self._held | {slot}, slot, adapter)
            return wasted, slot != preferred, -nearest, oldest.get(slot, -1), slot

        return min(self._free | self._idle.keys(), key=cost)

    def _wasted_rows(self, slots: set[int], newcomer: int | None = None, adapter: int = 0) -> int:
        """What steps of one token for each slot cost beyond its rows, where `newcomer` is to get one of `adapter`.

        Gaps are filled, or take a pass of their own; each adapter has its own steps.
        """
        if not self._has_adapters:
            return _gap_rows(slots)
        groups: dict[int, set[int]] = {}
        for slot in slots:
            groups.setdefault(adapter if slot == newcomer else self._tree.adapter(slot), set()).add(slot)
        return sum(map(_gap_rows, groups.values()))

    def _is_mostly(self, slot: int | None, length: int) -> bool:
        """Whether going on in `slot` from its first `length` tokens gives up less than it keeps."""
        return slot is not None and slot in self._idle and WORTHWHILE_PREFIX <= length >= self._tree.length(slot) // 2

    def _own_match(self, slot: int, tokens: list[int], adapter: int) -> int:
        """How much of the idle `slot` a new sequence of `tokens` can go on from."""
        if slot not in self._idle or self._tree.adapter(slot) != adapter:
            return 0
        length = common_prefix(tokens, self._tree.tokens(slot), limit=len(tokens) - 1)
        return length if self.limits.cuttable or length == self._tree.length(slot) else 0

    def _take_over(self, slot: int, length: int) -> None:
        """Go on in an idle slot, from its first `length` tokens."""
        if length < self._tree.length(slot):
            self._save(slot, least=self.limits.worth_saving)
            self.trim(slot, length)
        del self._idle[slot]
        self._held.add(slot)

    def _copy(self, source: int, target: int, length: int) -> None:
        self.operations.append(Copy(source, target, length))
        self._tree.extend(target, self._tree.tokens(source)[:length])
        if source not in self._idle:
            return
        if self._tree.length(source) == length:
            del self._idle[source]
            self._tree.release(source)
            self._free.add(source)
            self.operations.append(Drop(source))
        else:
            self._idle.move_to_end(source)


def _gap_rows(slots: set[int]) -> int:
    """What the gaps between slots that are computed together cost, in rows."""
    return sum(min(len(gap), WIDEST_FILLED_GAP + 1) for gap in gaps(slots))
