"""States of sequences in a cache of streams, in a form that does not depend on how many are open.

llama.cpp (`llama_kv_cache::state_write`) writes, in 4-byte words: a mark, the sequence's id, the number of streams, and
then for every stream the number of its cells and those cells. Only the sequence's own stream has any, the others are
a 0 each. It refuses a state from a cache with another number of streams. So what is kept is written as if of a cache
with all streams, the first of which is the sequence's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmserve.llama.engine import EngineFailed

Bytes = npt.NDArray[np.uint8]

_WORD = 4
_HEADER = 3 * _WORD


def state_buffer(size: int, stream: int, streams: int, all_streams: int) -> Bytes:
    """Room for llama.cpp to write a state of `size` bytes at its beginning, and for what `kept_form` adds."""
    buffer = np.empty(size + _WORD * (all_streams - streams + stream), dtype=np.uint8)
    buffer[size:] = 0
    return buffer


def kept_form(buffer: Bytes, stream: int, streams: int, all_streams: int) -> Bytes:
    """The state in `buffer` as if of the first of `all_streams`: a view, for which the header moves forward.

    Raises `EngineFailed` if it is not written as expected.
    """
    mark, sequence, count = _header(buffer)
    if count != streams or np.any(buffer[_HEADER : _HEADER + stream * _WORD]):
        raise EngineFailed("this build of llama.cpp writes the state of a sequence in an unknown form")
    state = buffer[stream * _WORD :]
    _header(state)[:] = mark, sequence, all_streams
    return state


def form_for(state: Bytes, streams: int, all_streams: int) -> Bytes:
    """A kept `state` as a cache with so many `streams` takes it: itself, or a copy if they are not all."""
    if streams == all_streams:
        return state
    fitting = state[: state.size - _WORD * (all_streams - streams)].copy()
    _header(fitting)[-1] = streams
    return fitting


def _header(state: Bytes) -> npt.NDArray[np.uint32]:
    """Mark, sequence and number of streams: a view."""
    return state[:_HEADER].view(np.uint32)
