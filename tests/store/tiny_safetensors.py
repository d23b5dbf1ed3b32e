"""Safetensors models small enough to be written in a moment, whole or broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HIDDEN = 8
LAYERS = 2
VOCABULARY = 16
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
}
TENSORS: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
    **{f"model.layers.{layer}.mlp.up_proj.weight": (16, HIDDEN) for layer in range(LAYERS)},
    "model.norm.weight": (HIDDEN,),
    "lm_head.weight": (VOCABULARY, HIDDEN),
}


def header_of(tensors: dict[str, tuple[int, ...]]) -> tuple[dict[str, Any], int]:
    """The header of BF16 tensors one after the other, and the bytes they take."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in tensors.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    return header, position


def file_of(header: Any, data_bytes: int) -> bytes:
    """A file with this header (JSON, or the bytes to be used for it) and so many bytes of zeros."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + bytes(data_bytes)


def sound_file(tensors: dict[str, tuple[int, ...]] | None = None) -> bytes:
    return file_of(*header_of(TENSORS if tensors is None else tensors))


def files(**changed: Any) -> dict[str, bytes]:
    """The files of a sound model; `changed` replaces keys of its configuration."""
    return {
        "config.json": json.dumps({**CONFIG, **changed}).encode(),
        "model.safetensors": sound_file(),
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
    }


def write_model(directory: Path, **changed: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files(**changed).items():
        (directory / name).write_bytes(content)
    return directory
