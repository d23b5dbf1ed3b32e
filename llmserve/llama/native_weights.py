"""Models whose weights must stay as the file has them where ggml computes with AMX.

ggml's AMX kernels (`ggml-cpu/amx/mmq.cpp` as llama-cpp-python 0.3.36 has it) are right for one matrix times the tokens
of a batch. For a stack of products they take the next matrix from behind the only one there is, and write four times as
far as they should: wrong text at best, the worker's end at worst. Stacks come from recurrent states, with a layer for
each sequence of the batch, and from weights that are stacks themselves.
"""

from __future__ import annotations

from typing import Any

import llama_cpp

from llmserve.llama.native_metadata import ARCHITECTURE, has_recurrent_state, metadata_value

# `llama_print_system_info` lists what the CPU backend was compiled for.
_COMPILED_IN = b"AMX_INT8 = 1"
# Those whose weights have three dimensions without being experts, which other kernels multiply (`src/models/*.cpp`).
# Where the keys and values of all heads come from one latent vector (MLA), its rank is in the metadata.
_STACKED = frozenset({"gemma3n", "deepseek4", "dflash", "granite-switch"})
_LATENT_RANK = "attention.kv_lora_rank"


def needs_plain_weights(model: Any) -> bool:
    """Whether this build of llama.cpp would compute wrongly with weights of `model` that it lays out for AMX."""
    return _COMPILED_IN in llama_cpp.llama_print_system_info() and multiplies_stacks(model)


def multiplies_stacks(model: Any) -> bool:
    """Whether weights of `model` take part in a stack of products."""
    if has_recurrent_state(model):
        return True
    architecture = metadata_value(model, ARCHITECTURE)
    return architecture in _STACKED or metadata_value(model, f"{architecture}.{_LATENT_RANK}") is not None
