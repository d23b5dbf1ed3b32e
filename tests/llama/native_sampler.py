"""llama.cpp's own samplers on one row of logits: what ours are compared with."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt


class NativeSampler:
    """One of llama.cpp's samplers."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def accept(self, token: int) -> None:
        llama_cpp.llama_sampler_accept(self._handle, token)

    def apply(self, logits: npt.NDArray[np.float32]) -> dict[int, float]:
        """The tokens it leaves, with their logits."""
        row = self._applied(logits)
        return {row.data[place].id: row.data[place].logit for place in range(row.size)}

    def choose(self, logits: npt.NDArray[np.float32]) -> int:
        """The token it selects, for a sampler that selects one."""
        row = self._applied(logits)
        return int(row.data[row.selected].id)

    def _applied(self, logits: npt.NDArray[np.float32]) -> Any:
        entries = np.empty(len(logits), dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        entries["id"], entries["logit"], entries["p"] = np.arange(len(logits)), logits, 0
        data = ctypes.cast(entries.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        row = llama_cpp.llama_token_data_array(data, len(logits), -1, False)
        # The structure holds a bare address.
        row.entries = entries
        llama_cpp.llama_sampler_apply(self._handle, ctypes.byref(row))
        return row


@contextmanager
def native(handle: Any) -> Iterator[NativeSampler]:
    """`handle` as a sampler that is freed at the end."""
    try:
        yield NativeSampler(handle)
    finally:
        llama_cpp.llama_sampler_free(handle)
