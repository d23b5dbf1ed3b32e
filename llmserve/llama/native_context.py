"""llama.cpp's context: the KV cache of a model and what computes in it.

Native code ends the process where it finds an argument it does not like, so every such condition is checked here
first: a batch within `n_batch`, slots and positions in range, logits read only where they were asked for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from llmserve.errors import InvalidModel
from llmserve.llama.batch import Chunk
from llmserve.llama.engine import Aborted, EngineFailed, OutOfRoom
from llmserve.llama.stream_state import form_for, kept_form, state_buffer
from llmserve.llama.token_batch import TokenBatch
from llmserve.types import EnginePlan

_KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0, "q4_0": llama_cpp.GGML_TYPE_Q4_0}


class NativeContext:
    """A context with `slots` sequences. Opening one may happen in any thread; the rest belongs to one at a time.

    In the layout "split" each slot has the cells that the plan gives to one of its sequences, however many slots there
    are. Raises `InvalidModel` if llama.cpp refuses it.
    """

    def __init__(self, model: Any, plan: EnginePlan, slots: int) -> None:
        self.slots = slots
        # All streams that the plan has, of which each slot is one; 0 where slots share a pool.
        self._streams = plan.parallel if plan.kv_layout == "split" else 0
        self._vocabulary = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))
        # One row for each sequence that writes, and those that drafts and scored prompts ask for.
        self._most_outputs = min(plan.batch, slots + plan.spare_rows)
        self._handle = open_context(model, self._parameters(plan))
        self._memory = llama_cpp.llama_get_memory(self._handle)
        # llama.cpp asks between the operations of a step whether to stop. C's own `atoi` of this text answers: a
        # function of Python's would need the interpreter a thousand times a step.
        self._stop = ctypes.create_string_buffer(b"0")
        question = ctypes.cast(ctypes.CDLL(None).atoi, llama_cpp.ggml_abort_callback)
        llama_cpp.llama_set_abort_callback(self._handle, question, ctypes.addressof(self._stop))
        self._batch = TokenBatch(int(llama_cpp.llama_n_batch(self._handle)), slots)
        self.cells = int(llama_cpp.llama_n_ctx(self._handle))
        self.longest = int(llama_cpp.llama_n_ctx_seq(self._handle))

    def _parameters(self, plan: EnginePlan) -> Any:
        parameters = context_parameters(plan)
        parameters.n_seq_max = self.slots
        # Without this bound every token of a micro-batch gets room for logits.
        parameters.n_outputs_max = self._most_outputs
        parameters.type_k = parameters.type_v = _KV_TYPES[plan.kv_type]
        parameters.kv_unified = plan.kv_layout == "unified"
        # Layers with a sliding window keep what they look at, as the plan counts them. The library's default is all
        # tokens, several times as much.
        parameters.swa_full = False
        if not parameters.kv_unified:
            parameters.n_ctx = plan.kv_cells // plan.parallel * self.slots
        return parameters

    def close(self) -> None:
        """Free the cache. Nothing may be called afterwards, and rows of logits are gone."""
        llama_cpp.llama_free(self._handle)

    def set_threads(self, threads: int) -> None:
        llama_cpp.llama_set_n_threads(self._handle, threads, threads)

    def apply_adapters(self, adapters: Sequence[tuple[Any, float]]) -> None:
        """Compute with these loaded adapters and no others, each with its scale. Raises `InvalidModel`."""
        count = len(adapters)
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * count)(*(handle for handle, _ in adapters))
        scales = (ctypes.c_float * count)(*(scale for _, scale in adapters))
        if llama_cpp.llama_set_adapters_lora(self._handle, handles, count, scales) != 0:
            raise InvalidModel("llama.cpp could not apply the adapters")

    def compute(self, chunks: Sequence[Chunk]) -> npt.NDArray[np.float32]:
        """Compute the chunks in one call: float32 [rows of all chunks, vocabulary], a view that the next overwrites.

        Raises `OutOfRoom`, `EngineFailed`, or `Aborted` with the cache in any state between before and after.
        """
        self._batch.clear()
        for chunk in chunks:
            self._batch.add(chunk.tokens, sequence=chunk.slot, position=chunk.start, outputs=chunk.rows)
        outputs = sum(chunk.rows for chunk in chunks)
        if outputs > self._most_outputs:
            raise ValueError(f"a step of {outputs} rows of logits is over the context's {self._most_outputs}")
        status = llama_cpp.llama_decode(self._handle, self._batch.struct)
        if status == 1:
            raise OutOfRoom
        if status == 2:
            raise Aborted
        if status != 0:
            raise EngineFailed(f"the engine could not compute a step (status {status})")
        if outputs == 0:
            return np.empty((0, self._vocabulary), dtype=np.float32)
        # The rows of one decode lie behind each other, in the order in which their tokens stand in the batch.
        rows = ctypes.cast(llama_cpp.llama_get_logits(self._handle), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(rows, shape=(outputs, self._vocabulary))

    def abort(self) -> None:
        """From any thread: stop what is being computed, and refuse to compute until `resume`."""
        self._stop.value = b"1"

    def resume(self) -> None:
        self._stop.value = b"0"

    def length(self, slot: int) -> int:
        """Tokens that `slot` holds."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def cut(self, slot: int, length: int) -> None:
        """Remove what `slot` holds behind its first `length` tokens, if anything."""
        llama_cpp.llama_memory_seq_rm(self._memory, slot, length, -1)

    def share(self, source: int, target: int, length: int) -> None:
        """Let `target` own the cells of the first `length` tokens of `source`, in one pool."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def read_state(self, slot: int) -> npt.NDArray[np.uint8]:
        """All that `slot` holds, in a form that a context with another number of slots takes too.

        Raises `EngineFailed`.
        """
        size = int(llama_cpp.llama_state_seq_get_size(self._handle, slot))
        state = state_buffer(size, slot, self.slots, self._streams) if self._streams else np.empty(size, dtype=np.uint8)
        written = llama_cpp.llama_state_seq_get_data(self._handle, _bytes_at(state), size, slot)
        if written != size:
            raise EngineFailed(f"the state of a sequence could not be saved ({written} of {size} bytes)")
        return kept_form(state, slot, self.slots, self._streams) if self._streams else state

    def write_state(self, slot: int, state: npt.NDArray[np.uint8]) -> None:
        """Fill the empty `slot` with `state`. Raises `EngineFailed`."""
        if self._streams:
            state = form_for(state, self.slots, self._streams)
        if not llama_cpp.llama_state_seq_set_data(self._handle, _bytes_at(state), state.size, slot):
            raise EngineFailed("the state of a sequence could not be restored")

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)


def context_parameters(plan: EnginePlan) -> Any:
    """llama.cpp's parameters of a context, with what the plan says for any kind of model."""
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = plan.kv_cells
    parameters.n_batch = plan.batch
    parameters.n_ubatch = plan.micro_batch
    # A step of one token uses n_threads, any other n_threads_batch: both are the plan's.
    parameters.n_threads = parameters.n_threads_batch = plan.threads
    parameters.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if plan.flash_attention else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    parameters.no_perf = True
    return parameters


def open_context(model: Any, parameters: Any) -> Any:
    """A context of `model`, which stays the caller's. Raises `InvalidModel`."""
    context = llama_cpp.llama_init_from_model(model, parameters)
    if context is None:
        raise InvalidModel(
            "llama.cpp could not open a context for the model", hint="a smaller --context may fit into memory"
        )
    return context


def _bytes_at(array: npt.NDArray[np.uint8]) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
