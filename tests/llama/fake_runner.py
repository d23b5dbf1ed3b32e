"""A decoder without a model: a KV cache that checks every rule, and a next token that depends on the whole text."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from llmserve.llama.engine import OutOfRoom
from llmserve.llama.scheduler import Batch, Copy

VOCABULARY = 64


def next_token(tokens: list[int]) -> int:
    """What this "model" writes after `tokens`: any change of a token or of the order changes it."""
    return zlib.crc32(np.asarray(tokens, dtype=np.int32).tobytes()) % VOCABULARY


class FakeRunner:
    """Cells are objects owned by slots, as in a unified KV cache; a broken rule is an AssertionError."""

    def __init__(self, slots: int, cells: int, batch: int) -> None:
        self.capacity, self.batch = cells, batch
        self.slots: list[list[tuple[int, int]]] = [[] for _ in range(slots)]
        self.steps = 0
        self.computed = 0
        self._next_cell = 0

    @property
    def used(self) -> int:
        return len({cell for slot in self.slots for cell, _ in slot})

    def tokens(self, slot: int) -> list[int]:
        return [token for _, token in self.slots[slot]]

    def decode(self, batch: Batch) -> npt.NDArray[np.float32]:
        for operation in batch.operations:
            if isinstance(operation, Copy):
                assert not self.slots[operation.target], "a prefix is copied into an empty slot"
                assert 0 < operation.length <= len(self.slots[operation.source])
                self.slots[operation.target] = self.slots[operation.source][: operation.length]
            else:
                self.slots[operation.slot] = []
        batch.operations.clear()
        total = sum(chunk.count for chunk in batch.chunks)
        assert total <= self.batch, "a step within the batch size"
        assert len({chunk.slot for chunk in batch.chunks}) == len(batch.chunks), "one chunk per slot"
        if self.used + total > self.capacity:
            raise OutOfRoom
        rows = []
        for chunk in batch.chunks:
            slot = self.slots[chunk.slot]
            assert chunk.start == len(slot), "positions continue what the slot holds"
            assert chunk.count > 0
            for token in chunk.sequence.tokens[chunk.start : chunk.start + chunk.count]:
                slot.append((self._next_cell, token))
                self._next_cell += 1
            if chunk.sample:
                row = np.full(VOCABULARY, -1, dtype=np.float32)
                row[next_token(self.tokens(chunk.slot))] = 5
                rows.append(row)
        self.steps += 1
        self.computed += total
        return np.stack(rows) if rows else np.empty((0, VOCABULARY), dtype=np.float32)

    def clear(self) -> None:
        for slot in self.slots:
            slot.clear()
