"""Byte counts against published and measured numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmserve.planning.memory import (
    MIB,
    compute_bytes,
    head_bytes,
    kv_bytes,
    kv_bytes_per_token,
    kv_type_fits,
    layer_kv_bytes,
    weight_bytes,
)
from llmserve.types import KvType, ModelInfo
from tests.planning import models


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (models.QWEN25_500M, 12_288),
        (models.SMOLLM2_135M, 23_040),
        (models.LLAMA32_1B, 32_768),
        (models.QWEN25_7B, 57_344),
        (models.LLAMA31_8B, 131_072),
        (models.MIXTRAL_8X7B, 131_072),
        (models.QWEN3_32B, 262_144),
        (models.DEEPSEEK_V2_LITE, 276_480),
        (models.LLAMA31_70B, 327_680),
        (models.GEMMA2_9B, 344_064),
        (models.MAMBA_2_8B, 0),
        (models.NOMIC_EMBED, 0),
    ],
    ids=lambda value: value.name if isinstance(value, ModelInfo) else str(value),
)
def test_kv_bytes_per_token_as_published(model: ModelInfo, expected: int) -> None:
    assert kv_bytes_per_token(model, "f16") == expected


@pytest.mark.parametrize(("kv_type", "expected"), [("f16", 131_072), ("q8_0", 69_632), ("q4_0", 36_864)])
def test_quantized_kv_counts_the_scale_of_each_block(kv_type: KvType, expected: int) -> None:
    assert kv_bytes_per_token(models.LLAMA31_8B, kv_type) == expected


@pytest.mark.parametrize(
    ("model", "kv_type", "cells", "parallel", "micro_batch", "mebibytes"),
    [
        # What llama.cpp's own log says for files of these shapes ("KV buffer size", both caches added up).
        (models.SMOLLM2_135M, "f16", 16384, 16, 512, 360),
        (models.SMOLLM2_135M, "f16", 4096, 16, 512, 90),
        (models.LLAMA31_8B, "f16", 8192, 16, 512, 1024),
        (models.LLAMA31_8B, "q8_0", 4096, 16, 128, 272),
        (models.QWEN25_7B, "f16", 8192, 16, 512, 448),
        (models.QWEN25_7B, "q4_0", 4096, 4, 128, 63),
        (models.GEMMA2_9B, "f16", 8192, 16, 512, 1344 + 1344),
        (models.GEMMA2_9B, "q4_0", 4096, 4, 128, 189 + 189),
        (models.GEMMA3_4B, "f16", 8192, 16, 512, 160 + 928),
        (models.GEMMA3_4B, "f16", 8192, 2, 512, 160 + 290),
        (models.GEMMA3_4B, "f16", 4096, 4, 2048, 80 + 464),
    ],
)
def test_pool_is_what_llama_cpp_allocates(
    model: ModelInfo, kv_type: KvType, cells: int, parallel: int, micro_batch: int, mebibytes: int
) -> None:
    assert kv_bytes(model, kv_type, cells, parallel, micro_batch) == mebibytes * MIB


def test_cells_are_allocated_by_256() -> None:
    assert kv_bytes(models.LLAMA31_8B, "f16", 1, 1, 512) == 256 * 131_072
    assert kv_bytes(models.LLAMA31_8B, "f16", 257, 1, 512) == 512 * 131_072


def test_recurrent_states_grow_with_sequences_and_not_with_the_pool() -> None:
    one = kv_bytes(models.MAMBA_2_8B, "f16", 256, 1, 512)
    assert one == 64 * 4 * 5120 * 19
    assert kv_bytes(models.MAMBA_2_8B, "f16", 65536, 1, 512) == one
    assert kv_bytes(models.MAMBA_2_8B, "f16", 256, 8, 512) == 8 * one


def test_layers_add_up_to_the_pool() -> None:
    layers = layer_kv_bytes(models.GEMMA3_4B, "f16", 65536, 8, 512)
    assert len(layers) == len(models.GEMMA3_4B.layers)
    assert sum(layers) == kv_bytes(models.GEMMA3_4B, "f16", 65536, 8, 512)
    assert layers[5] > layers[0], "every sixth layer has no window"


@pytest.mark.parametrize(
    ("model", "cells", "micro_batch", "outputs", "mebibytes"),
    [
        # "compute buffer size" in llama.cpp's log for files of these shapes.
        (models.SMOLLM2_135M, 4096, 512, 4, 17),
        (models.SMOLLM2_135M, 16384, 512, 4, 29),
        (models.SMOLLM2_135M, 16384, 128, 4, 7),
        (models.SMOLLM2_135M, 4096, 512, 512, 98.25),
        (models.SMOLLM2_135M, 4096, 2048, 32, 70.05),
        (models.LLAMA31_8B, 8192, 512, 16, 124.01),
        (models.LLAMA31_8B, 4096, 2048, 32, 480.05),
        (models.LLAMA31_8B, 4096, 512, 512, 266.5),
        (models.QWEN25_7B, 8192, 512, 16, 147.01),
        (models.GEMMA2_9B, 8192, 512, 16, 129.02),
        (models.GEMMA3_4B, 8192, 512, 16, 95.02),
    ],
)
def test_compute_buffer_is_within_seven_percent_of_what_llama_cpp_reserves(
    model: ModelInfo, cells: int, micro_batch: int, outputs: int, mebibytes: float
) -> None:
    assert compute_bytes(model, micro_batch, outputs, cells) == pytest.approx(mebibytes * MIB, rel=0.07)


@pytest.mark.parametrize(
    ("cells", "micro_batch", "mebibytes"), [(4096, 512, 99.38), (16384, 512, 326.38), (16384, 128, 81.6)]
)
def test_so_it_is_without_flash_attention(cells: int, micro_batch: int, mebibytes: float) -> None:
    # Every token of the graph had a row of logits where these were read from llama.cpp's log.
    buffer = compute_bytes(models.SMOLLM2_135M, micro_batch, micro_batch, cells, flash_attention=False)
    assert buffer == pytest.approx(mebibytes * MIB, rel=0.07)


def test_weights_are_the_files_tensors() -> None:
    for model in models.GGUF_MODELS.values():
        assert weight_bytes(model) == pytest.approx(model.size_bytes, rel=1e-5)


def test_a_head_shared_with_the_embeddings_is_copied_to_the_gpu() -> None:
    tied = models.LLAMA32_1B
    assert head_bytes(tied) == tied.output_bytes + tied.input_bytes
    assert head_bytes(models.LLAMA31_8B) == models.LLAMA31_8B.output_bytes


def test_per_layer_embeddings_are_not_copied_to_the_gpu() -> None:
    tied = models.LLAMA32_1B
    fat = replace(tied, input_bytes=tied.input_bytes * 100)
    assert head_bytes(fat) == fat.output_bytes + 2 * fat.vocabulary * fat.embedding_length


def test_quantized_kv_needs_heads_of_whole_blocks() -> None:
    odd = replace(models.LLAMA31_8B, layers=tuple(replace(layer, key_length=80) for layer in models.LLAMA31_8B.layers))
    assert kv_type_fits(models.LLAMA31_8B, "q8_0")
    assert not kv_type_fits(odd, "q8_0")
    assert kv_type_fits(odd, "f16")
