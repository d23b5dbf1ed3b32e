"""A model in several GGUF files, as llama.cpp's `llama-gguf-split` makes them.

Every part says which it is (`split.no`, from 0), of how many (`split.count`), and how many tensors all have together
(`split.tensors.count`). The first has the metadata of the model. llama.cpp opens it and looks for the others beside it,
under names that follow from the first's (`llama_split_path` in `src/llama-model-loader.cpp`), and so does this.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmserve.store.gguf_bytes import open_header, quoted, refuse
from llmserve.store.gguf_header import GgufHeader, parse_header
from llmserve.store.quantizations import shard_names

_COUNT_LIMIT = 1000


def split_count(header: GgufHeader) -> int:
    """Of how many parts this is one; 1 for a model in one file. Raises `InvalidModel` where it contradicts itself."""
    number, count = _integer(header, "split.no", 0), _integer(header, "split.count", 1)
    if count > _COUNT_LIMIT or not 0 <= number < max(count, 1):
        refuse("split.no and split.count contradict each other")
    return max(count, 1)


def require_first(header: GgufHeader) -> None:
    """Raise `InvalidModel` for a later part of a split model: it has nothing of the model but tensors."""
    count = split_count(header)
    if _integer(header, "split.no", 0) != 0:
        refuse(f"it is a later part of a model that is split into {count} files; the first has to be given")


def join(first: GgufHeader, path: Path) -> GgufHeader:
    """One header with the tensors of all parts. Raises `InvalidModel` where a part is missing or another model's."""
    count = split_count(first)
    names = shard_names(path.name)
    if len(names) != count or names[0] != path.name:
        refuse(f"it is the first of {count} parts, but is not called like one: `name-00001-of-{count:05}.gguf`")
    parts = [first, *(_part(path.with_name(name), number, count) for number, name in enumerate(names[1:], 1))]
    tensors = tuple(tensor for part in parts for tensor in part.tensors)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        refuse("two of its parts have a tensor of the same name")
    if (stated := _integer(first, "split.tensors.count", len(tensors))) != len(tensors):
        refuse(f"its parts have {len(tensors)} tensors together, not the {stated} it is said to have")
    return replace(first, tensors=tensors, file_size_bytes=sum(part.file_size_bytes for part in parts))


def _part(path: Path, number: int, count: int) -> GgufHeader:
    if not path.exists():
        refuse(f"its part {quoted(path.name)} is missing")
    with open_header(path) as source:
        header = parse_header(source)
    if (_integer(header, "split.no", -1), _integer(header, "split.count", -1)) != (number, count):
        refuse(f"{quoted(path.name)} does not say that it is part {number + 1} of {count}")
    return header


def _integer(header: GgufHeader, key: str, default: int) -> int:
    value = header.metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(f"split.no and split.count contradict each other: {key} is not an integer")
    return value
