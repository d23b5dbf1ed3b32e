"""The names of quantizations, as files and repositories spell them."""

from __future__ import annotations

import re

# A label between separators in a file's name: `Q4_K_M`, `q8_0`, `IQ3_XXS`, `bf16`, `UD-Q4_K_XL`, `mxfp4`.
_LABEL = re.compile(
    r"(?:^|[-_./])(?P<label>(?:ud-)?(?:i?q[1-8](?:_[0-9a-z]+){0,3}|tq[12]_0|bf16|f16|fp16|f32|mxfp4|nvfp4))"
    r"(?=$|[-./]|_\d{5}-of-)",
    re.IGNORECASE | re.ASCII,
)
# The parts of a model that is split into several files, numbered from 1.
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII | re.DOTALL)
_SHARDS_LIMIT = 1000
# Files of a GGUF repository that belong to a model but are none.
_PART = re.compile(r"(?:^|[-_./])(?:mmproj|imatrix)", re.IGNORECASE | re.ASCII)


def canonical_quantization(label: str) -> str:
    """`label` in the one spelling by which labels are compared: `fp16` and `F16` are the same."""
    return {"FP16": "F16", "FP32": "F32"}.get(label.upper(), label.upper())


def quantization_of(name: str) -> str | None:
    """The quantization that the name of a GGUF file states (the last label in it), in upper case."""
    stem = name.rpartition("/")[2].removesuffix(".gguf")
    if shard := _SHARD.fullmatch(f"{stem}.gguf"):
        stem = shard["stem"]
    labels = [match["label"] for match in _LABEL.finditer(stem)]
    return canonical_quantization(labels[-1]) if labels else None


def shard_names(name: str) -> tuple[str, ...]:
    """The names of all parts of the split model that `name` is a part of; `(name,)` for a file that is whole.

    The names come from the one given, so all parts lie in one directory. llama.cpp opens the first and looks for the
    others under these names (`llama_split_path`).
    """
    shard = _SHARD.fullmatch(name)
    if shard is None or not is_shard(name):
        return (name,)
    count = int(shard["count"])
    return tuple(f"{shard['stem']}-{number:05}-of-{shard['count']}.gguf" for number in range(1, count + 1))


def is_shard(name: str) -> bool:
    """Whether `name` is that of one part of a split model."""
    shard = _SHARD.fullmatch(name)
    return shard is not None and 1 <= int(shard["number"]) <= int(shard["count"]) <= _SHARDS_LIMIT


def is_model_file(name: str) -> bool:
    """Whether `name` is that of a GGUF file that a model begins with: not a later part of a split one, no projector."""
    if not name.endswith(".gguf") or _PART.search(name):
        return False
    return shard_names(name)[0] == name if is_shard(name) else True
