"""llama.cpp's model: its weights, read from a file and placed as the plan says."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import llama_cpp

from llmserve.errors import InvalidModel
from llmserve.llama.native_metadata import has_recurrent_state
from llmserve.llama.native_weights import needs_plain_weights
from llmserve.types import EnginePlan

FILE_TYPE = "general.file_type"
# llama.cpp's numbers of the file types whose weights ggml lays out anew for a CPU: Q4_0, Q4_K_S, Q4_K_M and IQ4_NL.
_REPACKED = frozenset({"2", "14", "15", "25"})
_ROW_TILE = 4

# ggml's log levels from here on are warnings and errors.
_WARN = 3


def load_model(path: Path, plan: EnginePlan, progress: Callable[[float], None]) -> Any:
    """llama.cpp's model, its layers placed as the plan says. Raises `InvalidModel`."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = plan.gpu_layers
    split = _tensor_split(plan)
    parameters.tensor_split = split
    overrides = _experts_in_ram(plan)
    parameters.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p) if overrides is not None else None

    @llama_cpp.llama_progress_callback  # type: ignore[untyped-decorator]
    def report(done: float, _: Any) -> bool:
        progress(done)
        return True

    parameters.progress_callback = report
    model = _load(path, parameters)
    if needs_plain_weights(model):
        llama_cpp.llama_model_free(model)
        parameters.use_extra_bufts = False
        model = _load(path, parameters)
    return model


def _load(path: Path, parameters: Any) -> Any:
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if model is None:
        raise InvalidModel("llama.cpp refused the model file", hint="the worker's log has llama.cpp's own words")
    return model


def load_adapter(model: Any, path: Path) -> Any:
    """llama.cpp's adapter (LoRA) for `model`, whose weights it changes where it is applied. Raises `InvalidModel`."""
    adapter = llama_cpp.llama_adapter_lora_init(model, str(path).encode())
    if not adapter:
        raise InvalidModel(
            f"llama.cpp refused the adapter {path.name}", hint="the worker's log has llama.cpp's own words"
        )
    return adapter


def _tensor_split(plan: EnginePlan) -> Any:
    """The planned number of layers for each GPU that llama.cpp sees; 0 keeps it off those the plan left out."""
    split = (ctypes.c_float * int(llama_cpp.llama_max_devices()))()
    for device, layers in zip(plan.devices, plan.gpu_split, strict=False):
        _, _, index = device.partition(":")
        split[int(index)] = layers
    return split if plan.gpu_split else None


class _BufferOverride(ctypes.Structure):
    """llama.cpp's `llama_model_tensor_buft_override`: the buffer for the tensors whose names match a pattern."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def _experts_in_ram(plan: EnginePlan) -> Any:
    """What keeps the experts of the plan's first layers in RAM: an array that ends with an empty entry, or None."""
    if not plan.experts_in_ram:
        return None
    # A function of ggml, which libllama depends on.
    cpu_buffer_type = llama_cpp.llama_cpp._lib.ggml_backend_cpu_buffer_type
    cpu_buffer_type.restype, cpu_buffer_type.argtypes = ctypes.c_void_p, ()
    layers = "|".join(map(str, range(plan.experts_in_ram)))
    pattern = rf"blk\.({layers})\.ffn_(up|down|gate|gate_up)_(ch)?exps"
    return (_BufferOverride * 2)(_BufferOverride(pattern.encode(), cpu_buffer_type()), _BufferOverride())


def is_cuttable(model: Any) -> bool:
    """Whether a sequence's memory can be cut at any token: not where it is a recurrent state or a sliding window."""
    return not (has_recurrent_state(model) or llama_cpp.llama_model_n_swa(model) > 0)


def row_tile(metadata: Mapping[str, str]) -> int:
    """How many rows ggml's CPU kernels take at once for the weights of a file with this metadata; 1: each by itself."""
    return _ROW_TILE if metadata.get(FILE_TYPE) in _REPACKED else 1


def log_warnings_only() -> Any:
    """Send llama.cpp's warnings and errors to standard error; returns the callback, which must stay referenced."""

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def write(level: int, text: bytes, _: Any) -> None:
        if _WARN <= level < _WARN + 2:
            sys.stderr.write(text.decode(errors="replace"))

    llama_cpp.llama_log_set(write, None)
    return write
