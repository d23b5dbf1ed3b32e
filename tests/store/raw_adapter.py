"""A tiny adapter (LoRA) in a GGUF file, and what can be wrong with one."""

from __future__ import annotations

from pathlib import Path

from tests.store.raw_gguf import RawGguf, RawTensor, Value

PAIR = (RawTensor("blk.0.attn_q.weight.lora_a", (8, 2)), RawTensor("blk.0.attn_q.weight.lora_b", (2, 8)))


def write_adapter(path: Path, *, tensors: tuple[RawTensor, ...] = PAIR, **keys: Value) -> Path:
    """Write an adapter for the architecture llama; `keys` replace what it says (`__` stands for a dot)."""
    metadata: dict[str, Value] = {
        "general.type": "adapter",
        "general.architecture": "llama",
        "adapter.type": "lora",
        "adapter.lora.alpha": 4.0,
    }
    metadata |= {key.replace("__", "."): value for key, value in keys.items()}
    return RawGguf(metadata, list(tensors)).write(path)
