"""The header of a GGUF file (format: `docs/gguf.md` of ggml, versions 2 and 3), parsed without trusting it.

What llmserve accepts is what llama.cpp 0.5.0 accepts (`ggml/src/gguf.cpp`), minus what no honest file needs: absurd
counts, names with path separators or control bytes, tensors without elements. In particular tensor data has to be
contiguous: the specification lets offsets come in any order, but llama.cpp loads a file only if each tensor starts
where the one before it ends (padded to the alignment), which also rules out overlaps and gaps.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llmserve.store.gguf_bytes import HeaderBytes, quoted, refuse
from llmserve.store.gguf_types import NUMBER_FORMATS, TENSOR_TYPES, TensorType, ValueType

VERSIONS = (2, 3)
COUNT_LIMIT = 65_536
KEY_LIMIT_BYTES = 65_535
ALIGNMENT_LIMIT_BYTES = 65_536
DEFAULT_ALIGNMENT_BYTES = 32
ALIGNMENT_KEY = "general.alignment"
# What is kept in memory of a value; longer ones stay in the file and are known by their size only.
KEPT_ITEMS = 1024
KEPT_TEXT_BYTES = 256 * 1024

_SMALLEST_PAIR_BYTES = 8 + 1 + 4 + 1
_SMALLEST_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8
_DIMENSIONS_LIMIT = 4
_NAME_LIMIT_BYTES = 63
_TENSOR_NAME = re.compile(r"[!-.0-\[\]-~]+")  # printable ASCII without space, slash and backslash


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array in the metadata: `count` items that begin at byte `offset` and take `size_bytes`.

    `items` holds the values of a short array and is None for a long one.
    """

    item_type: ValueType
    count: int
    offset: int
    size_bytes: int
    items: tuple[int | float | bool | str, ...] | None


@dataclass(frozen=True, slots=True)
class GgufLongText:
    """A string in the metadata that is too long to keep."""

    size_bytes: int


GgufValue = int | float | bool | str | GgufArray | GgufLongText


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: `shape` as stored (row length first), `offset` from the start of the tensor data."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Everything a GGUF file says before its tensor data, which begins at byte `data_offset`."""

    version: int
    file_size_bytes: int
    alignment_bytes: int
    data_offset: int
    metadata: Mapping[str, GgufValue]
    tensors: tuple[GgufTensor, ...]

    def text(self, key: str) -> str | None:
        """The string at `key`, or None without one. Raises `InvalidModel` if it is something else or too long."""
        value = self.metadata.get(key)
        if isinstance(value, GgufLongText):
            refuse(f"{key} has {value.size_bytes} bytes, over {KEPT_TEXT_BYTES}")
        if value is not None and not isinstance(value, str):
            refuse(f"{key} is not a string")
        return value


def parse_header(source: HeaderBytes) -> GgufHeader:
    """Parse the header at the start of `source`. Raises `InvalidModel` saying what is wrong and where."""
    version = _parse_version(source)
    tensor_count = source.unsigned64("the number of tensors")
    pair_count = source.unsigned64("the number of metadata entries")
    _check_count(tensor_count, "tensors", _SMALLEST_TENSOR_BYTES, source.left_bytes)
    _check_count(pair_count, "metadata entries", _SMALLEST_PAIR_BYTES, source.left_bytes)
    metadata: dict[str, GgufValue] = {}
    for index in range(pair_count):
        key = _parse_key(source, index)
        if key in metadata:
            refuse(f"the key {quoted(key)} occurs twice")
        metadata[key] = _parse_value(source, key)
    alignment = _alignment(metadata)
    tensors: dict[str, GgufTensor] = {}
    data_size = 0
    for index in range(tensor_count):
        tensor = _parse_tensor(source, index)
        if tensor.name in tensors:
            refuse(f"the tensor {quoted(tensor.name)} occurs twice")
        if tensor.offset != data_size:
            refuse(f"the tensor {quoted(tensor.name)} has offset {tensor.offset}, expected {data_size}")
        tensors[tensor.name] = tensor
        data_size += _padded(tensor.size_bytes, alignment)
    data_offset = _padded(source.position, alignment)
    _check_data(tuple(tensors.values()), data_offset, source.file_size_bytes)
    return GgufHeader(
        version=version,
        file_size_bytes=source.file_size_bytes,
        alignment_bytes=alignment,
        data_offset=data_offset,
        metadata=MappingProxyType(metadata),
        tensors=tuple(tensors.values()),
    )


def _parse_version(source: HeaderBytes) -> int:
    magic = source.take(4, "the magic number")
    if magic != b"GGUF":
        refuse(f"it starts with {magic!r}, not with b'GGUF'")
    version = source.unsigned32("the version")
    if version and version & 0xFFFF == 0:
        refuse("it is big-endian, which is not supported")
    if version not in VERSIONS:
        refuse(f"it has version {version}; supported are {' and '.join(map(str, VERSIONS))}")
    return version


def _check_count(count: int, what: str, smallest_bytes: int, left_bytes: int) -> None:
    if count > COUNT_LIMIT:
        refuse(f"it is said to have {count} {what}, over {COUNT_LIMIT}")
    if count * smallest_bytes > left_bytes:
        refuse(f"it is said to have {count} {what}, but only {left_bytes} bytes are left")


def _parse_key(source: HeaderBytes, index: int) -> str:
    what = f"the key of metadata entry {index}"
    start = source.position
    raw = source.string(what)
    if not 0 < len(raw) <= KEY_LIMIT_BYTES:
        refuse(f"{what} at byte {start} has {len(raw)} bytes, outside 1 to {KEY_LIMIT_BYTES}")
    try:
        key = raw.decode()
    except UnicodeDecodeError:
        refuse(f"{what} at byte {start} is not UTF-8: {quoted(raw)}")
    if not key.isprintable():
        refuse(f"{what} at byte {start} has unprintable characters: {quoted(key)}")
    return key


def _value_type(source: HeaderBytes, what: str) -> ValueType:
    start = source.position
    number = source.unsigned32(f"the type of {what}")
    try:
        return ValueType(number)
    except ValueError:
        refuse(f"{what} at byte {start} has the unknown type {number}")


def _parse_value(source: HeaderBytes, key: str) -> GgufValue:
    what = f"the value of {quoted(key)}"
    kind = _value_type(source, what)
    if key == ALIGNMENT_KEY and kind is not ValueType.UINT32:
        refuse(f"{key} has the type {kind.name}, not UINT32")
    if kind is ValueType.ARRAY:
        return _parse_array(source, what)
    if kind is not ValueType.STRING:
        return _number(kind, source.number(kind, what), what)
    start = source.position
    length = source.skip_string(what)
    if length > KEPT_TEXT_BYTES:
        return GgufLongText(length)
    source.position = start
    try:
        return source.string(what).decode()
    except UnicodeDecodeError as error:
        refuse(f"{what} is not UTF-8 at its byte {error.start}")


def _number(kind: ValueType, value: int | float, what: str) -> int | float | bool:
    if kind is not ValueType.BOOL:
        return value
    if value not in (0, 1):
        refuse(f"{what} is a boolean of value {value}, neither 0 nor 1")
    return value == 1


def _parse_array(source: HeaderBytes, what: str) -> GgufArray:
    kind = _value_type(source, f"the items of {what}")
    if kind is ValueType.ARRAY:
        refuse(f"{what} is an array of arrays")
    count = source.unsigned64(f"the item count of {what}")
    item_bytes = 8 if kind is ValueType.STRING else struct.calcsize(f"<{NUMBER_FORMATS[kind]}")
    if count * item_bytes > source.left_bytes:
        refuse(f"{what} is said to have {count} items, but only {source.left_bytes} bytes are left")
    start = source.position
    keep = count <= KEPT_ITEMS
    items: tuple[int | float | bool | str, ...] | None = None
    if kind is ValueType.STRING:
        texts = source.strings(count, what, keep=keep)
        if keep and source.position - start <= KEPT_TEXT_BYTES:
            items = tuple(text.decode("utf-8", "replace") for text in texts)
    elif keep:
        numbers = struct.unpack(f"<{count}{NUMBER_FORMATS[kind]}", source.take(count * item_bytes, what))
        items = tuple(_number(kind, number, what) for number in numbers)
    else:
        source.skip(count * item_bytes, what)
    return GgufArray(kind, count, start, source.position - start, items)


def _alignment(metadata: Mapping[str, GgufValue]) -> int:
    value = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT_BYTES)
    # llama.cpp takes any power of two; the specification asks for a multiple of 8.
    if not isinstance(value, int) or not 8 <= value <= ALIGNMENT_LIMIT_BYTES or value & (value - 1):
        refuse(f"{ALIGNMENT_KEY} is {value}, not a power of two from 8 to {ALIGNMENT_LIMIT_BYTES}")
    return value


def _parse_tensor(source: HeaderBytes, index: int) -> GgufTensor:
    what = f"the name of tensor {index}"
    start = source.position
    raw = source.string(what)
    name = raw.decode("latin-1")
    if not 0 < len(raw) <= _NAME_LIMIT_BYTES:
        refuse(f"{what} at byte {start} has {len(raw)} bytes, outside 1 to {_NAME_LIMIT_BYTES}")
    if not _TENSOR_NAME.fullmatch(name) or ".." in name:
        refuse(f"{what} at byte {start} is not a tensor name: {quoted(name)}")
    what = f"the tensor {quoted(name)}"
    dimensions = source.unsigned32(f"the number of dimensions of {what}")
    if not 1 <= dimensions <= _DIMENSIONS_LIMIT:
        refuse(f"{what} has {dimensions} dimensions, outside 1 to {_DIMENSIONS_LIMIT}")
    shape = struct.unpack(f"<{dimensions}Q", source.take(8 * dimensions, f"the shape of {what}"))
    elements = math.prod(shape)
    if not 0 < elements < 2**63:
        refuse(f"{what} has the impossible shape {shape}")
    number = source.unsigned32(f"the type of {what}")
    offset = source.unsigned64(f"the offset of {what}")
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        refuse(f"{what} has the unknown type {number}")
    if shape[0] % kind.block_elements:
        refuse(f"{what} has rows of {shape[0]} elements, not a multiple of the {kind.block_elements} of {kind.name}")
    return GgufTensor(name, kind, shape, offset, elements // kind.block_elements * kind.block_bytes)


def _check_data(tensors: tuple[GgufTensor, ...], data_offset: int, file_size_bytes: int) -> None:
    # Offsets are contiguous by now, so only the last tensor can stick out; the padding after it may be missing.
    if not tensors:
        return
    end = data_offset + tensors[-1].offset + tensors[-1].size_bytes
    if end > file_size_bytes:
        refuse(
            f"its tensors end at byte {end}, but the file has {file_size_bytes} bytes",
            hint="the file is incomplete or damaged; pull it again",
        )


def _padded(size_bytes: int, alignment_bytes: int) -> int:
    return -(-size_bytes // alignment_bytes) * alignment_bytes
