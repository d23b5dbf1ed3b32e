"""The header of a safetensors file (format: the README of `huggingface/safetensors`), parsed without trusting it.

Eight bytes give the length of the JSON that follows: an object of tensors with type, shape and the range of their bytes
after it, and perhaps texts under `__metadata__`. As its reference implementation demands, the ranges have to cover the
rest of the file without overlap or gap. Nothing else in a file can be anything.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from llmserve.errors import InvalidModel
from llmserve.store.bounded_json import UnsoundJson, parse_bounded
from llmserve.store.gguf_bytes import quoted

# The reference implementation reads up to 100 MB; published headers take less than one. So much fits the bounds of an
# inspection, 1 s and 64 MB, whatever is in it.
HEADER_LIMIT_BYTES = 8 * 1024 * 1024
TENSORS_LIMIT = 65_536
_VALUES_LIMIT = 400_000
_NAME_LIMIT = 512
_DIMENSIONS_LIMIT = 8
_METADATA = "__metadata__"

_BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "U8": 8,
        "I8": 8,
        "F8_E5M2": 8,
        "F8_E4M3": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "I16": 16,
        "U16": 16,
        "F16": 16,
        "BF16": 16,
        "I32": 32,
        "U32": 32,
        "F32": 32,
        "C64": 64,
        "F64": 64,
        "I64": 64,
        "U64": 64,
    }
)


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """One tensor: `begin` and `end` count from the end of the header."""

    name: str
    dtype: str
    elements: int
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.begin


def read_tensors(path: Path) -> tuple[SafeTensor, ...]:
    """The tensors of the file at `path`, in the order of their bytes. Raises `InvalidModel` for an unsound file."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise InvalidModel("a model file cannot be opened") from error
    try:
        size = os.fstat(descriptor).st_size
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little") if size >= 8 else 0
        if not 2 <= length <= HEADER_LIMIT_BYTES or 8 + length > size:
            _refuse(path, f"its header is said to have {length} bytes")
        content = os.pread(descriptor, length, 8)
    except OSError as error:
        raise InvalidModel(f"a model file cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return _checked(path, content, size - 8 - length)


def _checked(path: Path, content: bytes, data_bytes: int) -> tuple[SafeTensor, ...]:
    if not content.startswith(b"{"):
        _refuse(path, "its header is no JSON object")
    try:
        header = parse_bounded(content, items=_VALUES_LIMIT)
    except UnsoundJson as error:
        _refuse(path, f"of its header, {error}")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, f"{_METADATA} is not an object of texts")
    if not 0 < len(header) <= TENSORS_LIMIT:
        _refuse(path, f"it has {len(header)} tensors, outside 1 to {TENSORS_LIMIT}")
    tensors = sorted((_tensor(path, name, entry) for name, entry in header.items()), key=lambda t: (t.begin, t.end))
    position = 0
    for tensor in tensors:
        if tensor.begin != position:
            _refuse(path, f"{quoted(tensor.name)} begins at byte {tensor.begin}, expected {position}")
        position = tensor.end
    if position != data_bytes:
        _refuse(path, f"its tensors end at byte {position} of {data_bytes}")
    return tuple(tensors)


def _tensor(path: Path, name: str, entry: Any) -> SafeTensor:
    if not 0 < len(name) <= _NAME_LIMIT or not name.isprintable():
        _refuse(path, f"{quoted(name)} is not a tensor's name")
    what = quoted(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"{what} does not have exactly dtype, shape and data_offsets")
    bits = _BITS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if bits is None:
        _refuse(path, f"{what} has an unknown type")
    shape = _integers(entry["shape"])
    if shape is None or len(shape) > _DIMENSIONS_LIMIT:
        _refuse(path, f"{what} has no sound shape")
    offsets = _integers(entry["data_offsets"])
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"{what} has no sound data_offsets")
    elements = math.prod(shape)
    if elements * bits != 8 * (offsets[1] - offsets[0]):
        _refuse(path, f"{what} has {elements} elements in {offsets[1] - offsets[0]} bytes")
    return SafeTensor(name, entry["dtype"], elements, offsets[0], offsets[1])


def _integers(value: Any) -> list[int] | None:
    """A list of integers from 0 to 2^63 - 1, None for anything else."""
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**63 for item in value):
        return None
    return value


def _refuse(path: Path, problem: str) -> NoReturn:
    raise InvalidModel(f"invalid safetensors file {quoted(path.name)}: {problem}")
