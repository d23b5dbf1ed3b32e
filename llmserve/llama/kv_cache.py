"""Who holds which cells of the KV cache, what stays there after its sequence ended, and what is reused.

Two layouts, as llama.cpp has them. In the unified one all slots share one pool: a prefix is shared by owning the same
cells, and cells can run out. In the split one (`split_cache.py`) every slot has a stream of its own. Both are pure
bookkeeping: they leave `operations` for the runner and never see llama.cpp.

What one adapter computed is of no use to another: every look-up is for one, given by its number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from llmserve.llama.batch import Copy, Drop, Forget, Keep, Operation, Restore, Save, Trim
from llmserve.llama.prefix_shelf import PrefixShelf
from llmserve.llama.prefix_tree import Match, PrefixTree
from llmserve.llama.prefix_uses import PrefixUses

# Waiting for another prompt's cells, copying or restoring a prefix pays only if it saves at least this many tokens.
WORTHWHILE_PREFIX = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What the cache and a step can hold.

    parallel: sequences that run at once. slots: sequence ids of the cache. cells: tokens the cache holds. idle_cells:
    how many of them finished sequences may keep (the newest one is kept whatever its size); attention walks over every
    used cell, so idle ones are not free. worth_keeping: finished sequences of fewer tokens make way when a request is
    admitted that does not go on from them. cuttable: False where a sequence's memory cannot be cut at a token
    (recurrent state, sliding window), so that only whole sequences are gone on from. shelf: tokens that may be kept in
    host memory after they left the cache. worth_saving: finished sequences go there if at least so many of their tokens
    are nowhere else. spare_rows: rows of logits that a step may give beyond one for each running sequence.
    """

    parallel: int
    slots: int
    cells: int
    idle_cells: int
    worth_keeping: int = 0
    cuttable: bool = True
    shelf: int = 0
    worth_saving: int = 256
    spare_rows: int = 32


class KvCache(ABC):
    """What both layouts have in common. A slot is free (empty), idle (a finished sequence) or held (a running one)."""

    # Whether every slot has cells of its own, and is computed apart from slots with another number of tokens.
    separate_streams: ClassVar[bool] = False

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.operations: list[Operation] = []
        self.shelf = PrefixShelf(limits.shelf)
        self._tree = PrefixTree()
        self._free = set(range(limits.slots))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._held: set[int] = set()
        self._uses = PrefixUses()
        self.restored_from_ram = 0
        self.restored_from_disk = 0

    @property
    def cells_used(self) -> int:
        return self._tree.cells

    @property
    def cells_free(self) -> int:
        return self.limits.cells - self._tree.cells

    @property
    def longest(self) -> int:
        """Tokens one sequence may have."""
        return self.limits.cells

    def take_operations(self) -> list[Operation]:
        """What the runner has to do before the next step, in order."""
        operations, self.operations = self.operations, []
        return operations

    def resident(self, tokens: list[int], adapter: int = 0) -> int:
        """How many tokens a new sequence of `tokens` would find in the cache (its last one is always computed)."""
        return self._match(tokens, adapter).length

    def reusable(self, tokens: list[int], adapter: int = 0) -> int:
        """How many of its `tokens` a new sequence would not have to compute."""
        resident = self.resident(tokens, adapter)
        return max(resident, self._shelved(tokens, resident, adapter))

    def worth_archiving(self) -> list[tuple[list[int], int]]:
        """The tokens of finished sequences, in the cache or on the shelf, that would take long to compute again.

        Each with its adapter; first what many requests went on from and what is long.
        """
        idle = ((self._tree.tokens(slot), self._tree.adapter(slot)) for slot in self._idle)
        long = [entry for entry in (*self.shelf.sequences, *idle) if len(entry[0]) >= self.limits.worth_saving]
        return sorted(long, key=lambda entry: (1 + self._uses.of(*entry)) * len(entry[0]), reverse=True)

    def shelve(self, tokens: list[int], adapter: int = 0) -> int | None:
        """Where the shelf has all these `tokens` of a finished sequence, copied there first if only the cache does.

        None where neither has them, or they are over the shelf's budget.
        """
        key = self.shelf.key_of(tokens, adapter)
        if key is not None:
            return key
        of_adapter = (slot for slot in self._idle if self._tree.adapter(slot) == adapter)
        slot = next((slot for slot in of_adapter if self._tree.tokens(slot) == tokens), None)
        if slot is None:
            return None
        key, gone = self.shelf.put(tokens, adapter)
        self.operations.extend(map(Forget, gone))
        if key is not None:
            self.operations.append(Save(slot, key))
        return key

    def keep(self, tokens: list[int], state: npt.NDArray[np.uint8], adapter: int = 0) -> None:
        """Put on the shelf what an earlier run saved of `tokens`, if the budget has room for it."""
        if self.shelf.key_of(tokens, adapter) is not None:
            return
        key, gone = self.shelf.put(tokens, adapter, from_disk=True)
        self.operations.extend(map(Forget, gone))
        if key is not None:
            self.operations.append(Keep(key, state))

    def extend(self, slot: int, tokens: list[int]) -> None:
        """`slot` has computed `tokens` behind what it holds."""
        self._tree.extend(slot, tokens)

    def trim(self, slot: int, length: int) -> None:
        """`slot` keeps its first `length` tokens; the others must be its alone."""
        self._tree.trim(slot, length)
        self.operations.append(Trim(slot, length))

    def retire(self, slot: int) -> None:
        """The sequence of `slot` is over; what it computed stays until its place is needed."""
        self._held.discard(slot)
        if self._tree.length(slot) == 0:
            self._empty(slot)
        else:
            self._idle[slot] = None

    def preempt(self, slot: int) -> None:
        """The sequence of `slot` leaves for a while: saved if the shelf has room for it, so that it need not be
        computed again.
        """
        self._held.discard(slot)
        self._save(slot, least=1)
        self._empty(slot)

    def evict_idle(self) -> bool:
        """Give up the least recently used finished sequence; False if there is none."""
        if not self._idle:
            return False
        self._evict(next(iter(self._idle)))
        return True

    @abstractmethod
    def has_room(self, tokens: list[int], promised: int, adapter: int = 0) -> bool:
        """Whether a sequence of `tokens` may start, with `promised` cells owed to those that run."""

    def admit(self, tokens: list[int], adapter: int = 0) -> tuple[int, int]:
        """Give a new sequence a slot; returns it and how many of the `tokens` it holds already."""
        slot, length = self._place(tokens, adapter)
        if length >= self.limits.worth_saving:
            self._uses.note(tokens[:length], adapter)
        return slot, length

    @abstractmethod
    def make_room(self, cells: int) -> bool:
        """See to it that so many cells are free; False if giving up every idle sequence would not do."""

    def grow(self, limits: Limits) -> None:
        """From now on the runner's cache has these `limits`; what slots hold stays. Raises ValueError if it cannot."""
        raise ValueError("a shared pool does not grow")

    def compact(self) -> tuple[int, int] | None:
        """Move one held slot where that makes steps cheaper; returns where from and where to."""
        return None

    # --- for the layouts ---

    @abstractmethod
    def _place(self, tokens: list[int], adapter: int) -> tuple[int, int]:
        """What `admit` promises."""

    def _match(self, tokens: list[int], adapter: int) -> Match:
        return self._tree.match(tokens, len(tokens) - 1, adapter, whole=not self.limits.cuttable)

    def _shelved(self, tokens: list[int], resident: int, adapter: int) -> int:
        """Length of the saved prefix if it is worth restoring beside `resident` tokens in the cache, else 0."""
        most = len(tokens) - 1
        length = self.shelf.matched(tokens, most, adapter, whole=not self.limits.cuttable)
        # What is all there is to restore of a preempted sequence, which should go on exactly where it was.
        least = resident + (1 if length == most else WORTHWHILE_PREFIX)
        return length if length >= least else 0

    def _take(self, tokens: list[int], adapter: int) -> int:
        """The key of the longest saved prefix, which there must be; it counts as used now."""
        return self.shelf.take(tokens, len(tokens) - 1, adapter, whole=not self.limits.cuttable)[0]

    def _restore(self, key: int, slot: int, tokens: list[int]) -> None:
        """Fill the empty, opened `slot` with `tokens` from what is saved under `key`."""
        if self.shelf.first_from_disk(key):
            self.restored_from_disk += 1
        else:
            self.restored_from_ram += 1
        self.operations.append(Restore(key, slot, len(tokens)))
        self._tree.extend(slot, tokens)

    def _evict(self, slot: int, keep: int | None = None) -> None:
        """Free an idle slot; what is worth it is saved, without pushing `keep` off the shelf."""
        del self._idle[slot]
        self._save(slot, least=self.limits.worth_saving, keep=keep)
        self._empty(slot)

    def _empty(self, slot: int) -> None:
        self._tree.release(slot)
        self._free.add(slot)
        self.operations.append(Drop(slot))

    def _save(self, slot: int, *, least: int, keep: int | None = None) -> None:
        """Copy `slot` to the shelf if at least `least` of its tokens are neither there nor in another slot."""
        length = self._tree.length(slot)
        if not self.limits.shelf or length < max(least, 1):
            return
        tokens, adapter = self._tree.tokens(slot), self._tree.adapter(slot)
        elsewhere = self.shelf.matched(tokens, length, adapter, whole=False)
        if least > 1:
            elsewhere = max(elsewhere, self._tree.shared(slot))
        if length - elsewhere < least:
            return
        key, gone = self.shelf.put(tokens, adapter, keep)
        self.operations.extend(map(Forget, gone))
        if key is not None:
            self.operations.append(Save(slot, key))


class UnifiedCache(KvCache):
    """One pool of cells. Raises ValueError unless there are more slots than sequences that may run, or as many where
    their memory cannot be cut: finished sequences are then gone on from in their own slot or not at all.
    """

    def __init__(self, limits: Limits) -> None:
        if limits.slots < limits.parallel + limits.cuttable:
            raise ValueError("finished sequences need slots of their own")
        super().__init__(limits)

    def has_room(self, tokens: list[int], promised: int, adapter: int = 0) -> bool:
        resident = self.resident(tokens, adapter)
        # A restored prefix takes cells of its own, even where a shorter one is resident.
        shared = 0 if self._shelved(tokens, resident, adapter) else resident
        # Idle cells can be had, except those of the match once this sequence holds them.
        reclaimable = max(0, self._idle_cells() - shared)
        return len(tokens) - shared + promised <= self.cells_free + reclaimable

    def _place(self, tokens: list[int], adapter: int) -> tuple[int, int]:
        match = self._match(tokens, adapter)
        shelved = self._shelved(tokens, match.length, adapter)
        if match.length and not shelved and not self.limits.cuttable:
            return self._go_on_whole(match, adapter)
        key = self._take(tokens, adapter) if shelved else None
        if not self._free:
            self._evict(next(iter(self._idle)), key)
        # All that was saved takes cells before it is cut; where they cannot be had now, the prefix is computed anew.
        if key is not None and self.make_room(self.shelf.length(key), key):
            slot, length = self._open(adapter), shelved
            self._restore(key, slot, tokens[:shelved])
        else:
            slot, length = self._fork(self._match(tokens, adapter), adapter)
        for idle in [slot for slot in self._idle if self._tree.length(slot) < self.limits.worth_keeping]:
            self._evict(idle)
        return slot, length

    def make_room(self, cells: int, keep: int | None = None) -> bool:
        while self._tree.cells + cells > self.limits.cells:
            if not self._idle:
                return False
            self._evict(next(iter(self._idle)), keep)
        return True

    def retire(self, slot: int) -> None:
        super().retire(slot)
        while len(self._idle) > 1 and self._idle_cells() > self.limits.idle_cells:
            self.evict_idle()

    def _idle_cells(self) -> int:
        return self._tree.cells - self._tree.cells_held_by(self._held)

    def _open(self, adapter: int) -> int:
        slot = self._free.pop()
        self._held.add(slot)
        self._tree.open(slot, adapter)
        return slot

    def _fork(self, match: Match, adapter: int) -> tuple[int, int]:
        """A slot that owns the matched cells too, unless the memory cannot be cut: then an empty one."""
        if match.length == 0 or not self.limits.cuttable:
            return self._open(adapter), 0
        slot = self._free.pop()
        self._held.add(slot)
        source = self._tree.fork(match, slot)
        self.operations.append(Copy(source, slot, match.length))
        if source in self._idle:
            if self._tree.length(source) == match.length:
                del self._idle[source]
                self._empty(source)  # the new sequence holds all it has
            else:
                self._idle.move_to_end(source)
        return slot, match.length

    def _go_on_whole(self, match: Match, adapter: int) -> tuple[int, int]:
        """Go on in the slot of a finished sequence that is a prefix from end to end."""
        slot = next((slot for slot in self._tree.holders(match) if slot in self._idle), None)
        if slot is None:
            if not self._free:
                self.evict_idle()
            return self._open(adapter), 0
        del self._idle[slot]
        self._held.add(slot)
        return slot, match.length
