"""Models whose memory cannot be cut at a token, as small as `tiny_gguf`'s: sliding windows and recurrent states."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from tests.tiny_gguf import CHATML, EMBEDDING_LENGTH, FEED_FORWARD_LENGTH, HEADS, KV_HEADS, add_vocabulary, vocabulary

WINDOW = 32
# Of Gemma 3's layers every sixth sees all tokens.
_WINDOWED_LAYERS = 6
_HEAD_LENGTH = EMBEDDING_LENGTH // HEADS
_RECURRENT_LAYERS = 2
_INNER_LENGTH, _STATE_LENGTH, _KERNEL_LENGTH, _RANK = 128, 16, 4, 4


def write_tiny_windowed_model(path: Path, *, context: int = 512) -> Path:
    """A model of Gemma 3's kind, whose layers but the last see `WINDOW` tokens; returns `path`."""

    def add_tensors(tensors: _Tensors) -> None:
        for layer in range(_WINDOWED_LAYERS):
            block = f"blk.{layer}"
            for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
                tensors.norm(f"{block}.{name}.weight")
            for name in ("attn_q_norm", "attn_k_norm"):
                tensors.norm(f"{block}.{name}.weight", _HEAD_LENGTH)
            tensors.matrix(f"{block}.attn_q.weight", EMBEDDING_LENGTH, _HEAD_LENGTH * HEADS)
            tensors.matrix(f"{block}.attn_k.weight", EMBEDDING_LENGTH, _HEAD_LENGTH * KV_HEADS)
            tensors.matrix(f"{block}.attn_v.weight", EMBEDDING_LENGTH, _HEAD_LENGTH * KV_HEADS)
            tensors.matrix(f"{block}.attn_output.weight", _HEAD_LENGTH * HEADS, EMBEDDING_LENGTH)
            tensors.matrix(f"{block}.ffn_gate.weight", EMBEDDING_LENGTH, FEED_FORWARD_LENGTH)
            tensors.matrix(f"{block}.ffn_up.weight", EMBEDDING_LENGTH, FEED_FORWARD_LENGTH)
            tensors.matrix(f"{block}.ffn_down.weight", FEED_FORWARD_LENGTH, EMBEDDING_LENGTH)

    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_block_count(_WINDOWED_LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD_LENGTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(_HEAD_LENGTH)
    writer.add_value_length(_HEAD_LENGTH)
    writer.add_sliding_window(WINDOW)
    writer.add_rope_freq_base(10_000.0)
    return _written(path, writer, context, add_tensors)


def write_tiny_recurrent_model(path: Path, *, context: int = 512) -> Path:
    """A model of Mamba's kind; returns `path`."""

    def add_tensors(tensors: _Tensors) -> None:
        for layer in range(_RECURRENT_LAYERS):
            block = f"blk.{layer}"
            tensors.norm(f"{block}.attn_norm.weight")
            tensors.matrix(f"{block}.ssm_in.weight", EMBEDDING_LENGTH, 2 * _INNER_LENGTH)
            tensors.matrix(f"{block}.ssm_conv1d.weight", _KERNEL_LENGTH, _INNER_LENGTH, np.float32)
            tensors.norm(f"{block}.ssm_conv1d.bias", _INNER_LENGTH)
            tensors.matrix(f"{block}.ssm_x.weight", _INNER_LENGTH, _RANK + 2 * _STATE_LENGTH)
            tensors.matrix(f"{block}.ssm_dt.weight", _RANK, _INNER_LENGTH)
            tensors.norm(f"{block}.ssm_dt.bias", _INNER_LENGTH)
            tensors.decay(f"{block}.ssm_a")
            tensors.norm(f"{block}.ssm_d", _INNER_LENGTH)
            tensors.matrix(f"{block}.ssm_out.weight", _INNER_LENGTH, EMBEDDING_LENGTH)

    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_block_count(_RECURRENT_LAYERS)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(_KERNEL_LENGTH)
    writer.add_ssm_inner_size(_INNER_LENGTH)
    writer.add_ssm_state_size(_STATE_LENGTH)
    writer.add_ssm_time_step_rank(_RANK)
    return _written(path, writer, context, add_tensors)


class _Tensors:
    """Random tensors, the same ones at every call."""

    def __init__(self, writer: gguf.GGUFWriter) -> None:
        self._writer = writer
        self._random = np.random.default_rng(0)

    def matrix(self, name: str, columns: int, rows: int, kind: npt.DTypeLike = np.float16) -> None:
        values = self._random.standard_normal((rows, columns)) / math.sqrt(columns)
        self._writer.add_tensor(name, values.astype(kind))

    def norm(self, name: str, length: int = EMBEDDING_LENGTH) -> None:
        self._writer.add_tensor(name, np.ones(length, dtype=np.float32))

    def decay(self, name: str) -> None:
        values = -np.abs(self._random.standard_normal((_INNER_LENGTH, _STATE_LENGTH)))
        self._writer.add_tensor(name, values.astype(np.float32))


def _written(path: Path, writer: gguf.GGUFWriter, context: int, add_tensors: Callable[[_Tensors], None]) -> Path:
    writer.add_name("Tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(context)
    writer.add_embedding_length(EMBEDDING_LENGTH)
    writer.add_layer_norm_rms_eps(1e-5)
    add_vocabulary(writer, CHATML)
    tensors = _Tensors(writer)
    tensors.matrix("token_embd.weight", EMBEDDING_LENGTH, len(vocabulary()))
    add_tensors(tensors)
    tensors.norm("output_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
