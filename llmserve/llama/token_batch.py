"""The arrays of one `llama_batch`, allocated once and filled by slices instead of token by token."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp
import numpy as np


class TokenBatch:
    """Up to `capacity` tokens of sequences numbered below `sequences`; `struct` is what llama.cpp takes."""

    def __init__(self, capacity: int, sequences: int) -> None:
        self._capacity = capacity
        self._sequences = sequences
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._counts = np.ones(capacity, dtype=np.int32)
        self._outputs = np.zeros(capacity, dtype=np.int8)
        self._sequence_ids = np.zeros(capacity, dtype=np.int32)
        # seq_id is an array of pointers, each to one token's list of sequences: here always a list of one.
        self._pointers = self._sequence_ids.ctypes.data + np.arange(capacity, dtype=np.uintp) * 4
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token)),
            embd=None,
            pos=self._positions.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_pos)),
            n_seq_id=self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(llama_cpp.llama_seq_id))),
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def clear(self) -> None:
        self.struct.n_tokens = 0

    def add(self, tokens: Sequence[int], *, sequence: int, position: int = 0, outputs: int = 0) -> None:
        """Append tokens of one sequence, the first at `position`; the last `outputs` of them give a row of output.

        Raises `ValueError` where llama.cpp would end the process.
        """
        start = int(self.struct.n_tokens)
        end = start + len(tokens)
        if end > self._capacity:
            raise ValueError(f"a batch of {end} tokens is over the context's {self._capacity}")
        if not tokens or not 0 <= sequence < self._sequences or position < 0 or not 0 <= outputs <= len(tokens):
            raise ValueError("an empty piece of a sequence, or one outside the context")
        self.struct.n_tokens = end
        if end - start == 1:  # a sequence that is writing: plain items are set several times as fast as slices
            self._tokens[start] = tokens[0]
            self._positions[start] = position
            self._sequence_ids[start] = sequence
            self._outputs[start] = outputs
            return
        self._tokens[start:end] = tokens
        self._positions[start:end] = np.arange(position, position + len(tokens))
        self._sequence_ids[start:end] = sequence
        self._outputs[start : end - outputs] = 0
        self._outputs[end - outputs : end] = 1
