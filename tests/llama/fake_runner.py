"""A decoder without a model: a KV cache that checks every rule, and a next token that depends on the whole text."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from llmserve.llama.batch import Batch, Copy, Drop, Forget, Keep, Operation, Restore, Save, Trim
from llmserve.llama.engine import OutOfRoom

VOCABULARY = 64


# A cell says with which adapter it was computed, above its token.
_ADAPTER_BITS = 20


def next_token(tokens: list[int], adapter: int = 0) -> int:
    """What this "model" writes after `tokens`: any change of a token, of the order or of the adapter changes it."""
    return zlib.crc32(np.asarray(tokens, dtype=np.int32).tobytes(), adapter) % VOCABULARY


class FakeRunner:
    """Cells are objects owned by slots, as in llama.cpp's KV cache; a broken rule is an AssertionError.

    `split`: each slot has a stream of its own, and a copy is another set of cells.
    """

    def __init__(self, slots: int, cells: int, batch: int, *, split: bool = False, cuttable: bool = True) -> None:
        self.capacity, self.batch, self.split, self.cuttable = cells, batch, split, cuttable
        self.saved: dict[int, list[int]] = {}
        self.passes = 0
        self.slots: list[list[tuple[int, int]]] = [[] for _ in range(slots)]
        self.steps = 0
        self.computed = 0
        self._next_cell = 0

    @property
    def used(self) -> int:
        return len({cell for slot in self.slots for cell, _ in slot})

    def tokens(self, slot: int) -> list[int]:
        return [content & ((1 << _ADAPTER_BITS) - 1) for _, content in self.slots[slot]]

    def decode(self, batch: Batch) -> npt.NDArray[np.float32]:
        for operation in batch.operations:
            self.carry_out(operation)
        batch.operations.clear()
        total = sum(chunk.count for chunk in batch.chunks)
        assert total <= self.batch, "a step within the batch size"
        assert len({chunk.slot for chunk in batch.chunks}) == len(batch.chunks), "one chunk per slot"
        assert all(chunk.sequence.adapter == batch.adapter for chunk in batch.chunks), "one adapter per step"
        if self.used + total > self.capacity:
            raise OutOfRoom
        if batch.chunks and self.split:
            slots = [chunk.slot for chunk in batch.chunks]
            assert slots == sorted(slots)
            self.passes += sum(slot - 1 not in slots for slot in slots)
        rows = []
        for chunk in batch.chunks:
            slot = self.slots[chunk.slot]
            assert chunk.start == len(slot), "positions continue what the slot holds"
            assert chunk.count > 0
            assert all(content >> _ADAPTER_BITS == batch.adapter for _, content in slot), "no other adapter's cells"
            wanted = len(slot) + chunk.count - chunk.rows
            for token in chunk.tokens:
                slot.append((self._next_cell, batch.adapter << _ADAPTER_BITS | token))
                self._next_cell += 1
                if len(slot) > wanted:
                    row = np.full(VOCABULARY, -1, dtype=np.float32)
                    row[next_token(self.tokens(chunk.slot), batch.adapter)] = 5
                    rows.append(row)
        self.steps += 1
        self.computed += total
        return np.stack(rows) if rows else np.empty((0, VOCABULARY), dtype=np.float32)

    def abort(self) -> None:
        """Its steps take no time, so there is nothing to give up."""

    def carry_out(self, operation: Operation) -> None:
        match operation:
            case Drop(slot):
                self.slots[slot] = []
            case Trim(slot, length):
                assert self.cuttable
                assert 0 < length < len(self.slots[slot])
                del self.slots[slot][length:]
            case Copy(source, target, length):
                assert not self.slots[target], "a prefix is copied into an empty slot"
                assert 0 < length <= len(self.slots[source])
                assert self.cuttable or length == len(self.slots[source])
                cells = self.slots[source][:length]
                self.slots[target] = self._anew([content for _, content in cells]) if self.split else cells
            case Save(slot, key):
                assert key not in self.saved
                self.saved[key] = [content for _, content in self.slots[slot]]
            case Restore(key, slot, length):
                assert not self.slots[slot], "a prefix is restored into an empty slot"
                assert self.cuttable or length == len(self.saved[key])
                self.slots[slot] = self._anew(self.saved[key])
                assert self.used <= self.capacity, "a saved state is written whole before it is cut"
                del self.slots[slot][length:]
            case Forget(key):
                del self.saved[key]
            case Keep(key, state):
                assert key not in self.saved
                self.saved[key] = state.view(np.int32).tolist()

    def saved_state(self, key: int) -> npt.NDArray[np.uint8]:
        return np.asarray(self.saved[key], dtype=np.int32).view(np.uint8)

    def _anew(self, contents: list[int]) -> list[tuple[int, int]]:
        first = self._next_cell
        self._next_cell += len(contents)
        return list(enumerate(contents, first))

    def clear(self) -> None:
        self.saved.clear()
        for slot in self.slots:
            slot.clear()
