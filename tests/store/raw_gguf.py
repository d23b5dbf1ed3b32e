"""Builds GGUF files byte by byte, so that a test can get any byte wrong."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, Q4_0, I8 = 0, 2, 24
_CODES = {UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?", UINT64: "Q", INT64: "q", UINT16: "H", UINT8: "B"}

Value = int | float | bool | str | bytes | list[str] | list[int] | list[bool] | list[float]


def string(text: str | bytes, length: int | None = None) -> bytes:
    """A string as the format stores it; `length` lies about it."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def number(kind: int, value: float) -> bytes:
    """A typed number."""
    return struct.pack(f"<I{_CODES[kind]}", kind, value)


def text(value: str | bytes, length: int | None = None) -> bytes:
    """A typed string."""
    return struct.pack("<I", STRING) + string(value, length)


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    """A typed array that says it has `count` items."""
    return struct.pack("<IIQ", ARRAY, kind, count) + items


def value(plain: Value) -> bytes:
    """A typed value of the obvious type; bytes are taken as typed already."""
    if isinstance(plain, bytes):
        return plain
    if isinstance(plain, str):
        return text(plain)
    if isinstance(plain, bool):
        return number(BOOL, plain)
    if isinstance(plain, int):
        return number(UINT32, plain)
    if isinstance(plain, float):
        return number(FLOAT32, plain)
    return _list(plain)


def _list(items: list[str] | list[int] | list[bool] | list[float]) -> bytes:
    first = items[0] if items else 0
    if isinstance(first, str):
        return array(STRING, len(items), b"".join(string(str(item)) for item in items))
    kind = BOOL if isinstance(first, bool) else INT32 if isinstance(first, int) else FLOAT32
    return array(kind, len(items), struct.pack(f"<{len(items)}{_CODES[kind]}", *items))


@dataclass
class RawTensor:
    """A tensor to write: `offset` None puts it where it belongs, `data_bytes` None gives it zeros of float32 size."""

    name: str | bytes
    shape: tuple[int, ...]
    type: int = F32
    offset: int | None = None
    data_bytes: int | None = None
    dimensions: int | None = None

    def size(self) -> int:
        if self.data_bytes is not None:
            return self.data_bytes
        elements = 4
        for length in self.shape:
            elements *= length
        return elements


@dataclass
class RawGguf:
    """A file to be: sound by default, and every part of it can be replaced by a lie."""

    metadata: dict[str, Value]
    tensors: list[RawTensor]
    extra_pairs: list[tuple[bytes, bytes]] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    pair_count: int | None = None
    alignment: int = 32

    def build(self) -> bytes:
        pairs = [(string(key), value(plain)) for key, plain in self.metadata.items()] + self.extra_pairs
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        pair_count = len(pairs) if self.pair_count is None else self.pair_count
        parts = [self.magic, struct.pack("<IQQ", self.version, tensor_count, pair_count)]
        parts += [key + typed for key, typed in pairs]
        offset = 0
        data = []
        for tensor in self.tensors:
            parts.append(self._info(tensor, offset))
            padded = -(-tensor.size() // self.alignment) * self.alignment
            data.append(bytes(padded))
            offset += padded
        header = b"".join(parts)
        return header + bytes(-len(header) % self.alignment) + b"".join(data)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path

    def _info(self, tensor: RawTensor, offset: int) -> bytes:
        dimensions = len(tensor.shape) if tensor.dimensions is None else tensor.dimensions
        return (
            string(tensor.name)
            + struct.pack("<I", dimensions)
            + b"".join(struct.pack("<Q", length % 2**64) for length in tensor.shape)
            + struct.pack("<IQ", tensor.type, offset if tensor.offset is None else tensor.offset)
        )


def sound_model(
    architecture: str = "llama",
    keys: Mapping[str, Value] | None = None,
    *,
    layers: int = 1,
    tensors: Iterable[RawTensor] = (),
) -> RawGguf:
    """A model of 8 elements width with 4 tokens; `keys` are set below the architecture, None removes one."""
    parameters: dict[str, Value] = {
        "block_count": layers,
        "context_length": 64,
        "embedding_length": 8,
        "feed_forward_length": 16,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        **(keys or {}),
    }
    return RawGguf(
        metadata={
            "general.architecture": architecture,
            **{f"{architecture}.{key}": plain for key, plain in parameters.items()},
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "<0x0A>"],
            "tokenizer.ggml.scores": [0.0, 0.0, 0.0, 0.0],
            "tokenizer.ggml.token_type": [2, 3, 3, 6],
        },
        tensors=[
            RawTensor("token_embd.weight", (8, 4)),
            *(RawTensor(f"blk.{layer}.attn_q.weight", (8, 8)) for layer in range(layers)),
            RawTensor("output_norm.weight", (8,)),
            *tensors,
        ],
    )
