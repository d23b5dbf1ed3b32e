"""What a loaded model says of itself: the metadata of its file, and whether it has recurrent states."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp

ARCHITECTURE = "general.architecture"
_LONGEST_BYTES = 127


def metadata_value(model: Any, key: str) -> str | None:
    """The value that the model file has for this GGUF key, as text; a longer one is cut at 127 bytes."""
    value = ctypes.create_string_buffer(_LONGEST_BYTES + 1)
    if llama_cpp.llama_model_meta_val_str(model, key.encode(), value, len(value)) < 0:
        return None
    return value.value.decode(errors="replace")


def has_recurrent_state(model: Any) -> bool:
    """Whether some or all of its layers keep a state of fixed size for each sequence."""
    return bool(llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model))
