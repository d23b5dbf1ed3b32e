"""A tiny adapter (LoRA) in a GGUF file, and what can be wrong with one."""

from __future__ import annotations

import math
from pathlib import Path

from tests.store.raw_gguf import F32, I8, RawGguf, RawTensor, Value
from tests.tiny_gguf import EMBEDDING_LENGTH


def pair(name: str, a: tuple[int, ...], b: tuple[int, ...], type: int = F32) -> tuple[RawTensor, RawTensor]:
    """The two tensors that change the weights `name`, of these shapes (row length first)."""

    def part(suffix: str, shape: tuple[int, ...]) -> RawTensor:
        return RawTensor(f"{name}.{suffix}", shape, type, data_bytes=math.prod(shape) * (1 if type == I8 else 4))

    return part("lora_a", a), part("lora_b", b)


PAIR = pair("blk.0.attn_q.weight", (EMBEDDING_LENGTH, 2), (2, EMBEDDING_LENGTH))


def write_adapter(path: Path, *, tensors: tuple[RawTensor, ...] = PAIR, **keys: Value) -> Path:
    """Write an adapter for the tiny model; `keys` replace what it says (`__` stands for a dot)."""
    metadata: dict[str, Value] = {
        "general.type": "adapter",
        "general.architecture": "llama",
        "adapter.type": "lora",
        "adapter.lora.alpha": 4.0,
    }
    metadata |= {key.replace("__", "."): value for key, value in keys.items()}
    return RawGguf(metadata, list(tensors)).write(path)
