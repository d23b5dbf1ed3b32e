"""Adapters (LoRA) in GGUF files: changes to the weights of a model of one architecture, no models themselves.

The form is that of llama.cpp (`llama_adapter_lora_init` in `src/llama-adapter.cpp`): `general.type` is "adapter",
`adapter.type` is "lora", and the tensors come in pairs of low rank, `<weights>.lora_a` and `<weights>.lora_b`. To the
product of weights and input they add that of B, A and input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from llmserve.errors import InvalidModel
from llmserve.store.files import sha256_of
from llmserve.store.gguf import read_header
from llmserve.store.gguf_bytes import quoted
from llmserve.store.gguf_header import GgufHeader, GgufTensor
from llmserve.store.gguf_model import with_adapter
from llmserve.store.manifests import Companion
from llmserve.store.progress import Report
from llmserve.types import ModelInfo

_A, _B = ".lora_a", ".lora_b"
# What llama.cpp passes over in an adapter.
_PASSED_OVER = "_norm.weight"
# Rows of it are looked up, not multiplied, so that A and B change places.
_LOOKED_UP = "token_embd.weight"
# What no product is computed of.
_NO_WEIGHTS = frozenset({"I8", "I16", "I32", "I64", "F64"})
_DIMENSIONS = 4


def read_adapter(path: Path, base: GgufHeader, report: Report) -> Companion:
    """The adapter at `path` for the model with the header `base`, inspected and hashed, to be used where it lies.

    Raises `InvalidModel` for a file that is none or does not fit the base. Blocking.
    """
    try:
        resolved = path.expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidModel(
            f"there is no adapter {path}", hint="a path is relative to the file that names it"
        ) from error
    try:
        header = read_header(resolved)
    except InvalidModel as error:
        raise InvalidModel(f"{path}: {error.message}", hint=error.hint) from error
    _check(path, header, base)
    sha256, identity = sha256_of(resolved, report)
    return Companion(resolved.name, sha256, identity, str(resolved))


def beside(model: ModelInfo, adapters: Iterable[Path]) -> ModelInfo:
    """`model` with the bytes of these adapters, each of which is in memory once. Raises `InvalidModel`."""
    for path in adapters:
        model = with_adapter(model, read_header(path))
    return model


def _check(path: Path, header: GgufHeader, base: GgufHeader) -> None:
    kind = header.text("general.type")
    if kind != "adapter":
        what = f"its general.type is {quoted(kind)}" if kind else "it has no general.type"
        raise InvalidModel(f"{path} is no adapter: {what}, not 'adapter'")
    if (form := header.text("adapter.type")) != "lora":
        raise InvalidModel(f"{path} is an adapter of the type {quoted(form or 'unknown')}; only 'lora' can be used")
    if "adapter.alora.invocation_tokens" in header.metadata:
        raise InvalidModel(f"{path} is an adapter that certain tokens switch on (aLoRA), which is not supported")
    alpha = header.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise InvalidModel(f"{path} is no sound adapter: its adapter.lora.alpha is no finite number with a fraction")
    made_for, architecture = header.text("general.architecture"), base.text("general.architecture")
    if made_for != architecture:
        made_for, architecture = made_for or "unknown", architecture or "unknown"
        raise InvalidModel(
            f"{path} is made for the architecture {quoted(made_for)}, the base is {quoted(architecture)}"
        )
    _check_tensors(path, header, base)


def _check_tensors(path: Path, header: GgufHeader, base: GgufHeader) -> None:
    tensors = {tensor.name: tensor for tensor in header.tensors}
    parts = [name for name in tensors if not name.endswith(_PASSED_OVER)]
    changed = {name.removesuffix(_A).removesuffix(_B) for name in parts}
    in_pairs = all(name + part in tensors for name in changed for part in (_A, _B))
    if not changed or len(parts) != 2 * len(changed) or not in_pairs:
        raise InvalidModel(f"{path} is no sound adapter: its tensors are no pairs of .lora_a and .lora_b")
    weights = {tensor.name: tensor for tensor in base.tensors}
    for name in sorted(changed):
        if name not in weights:
            raise InvalidModel(
                f"{path} does not fit the base: it changes the tensor {quoted(name)}, which the base does not have"
            )
        if problem := _misfit(weights[name], tensors[name + _A], tensors[name + _B]):
            raise InvalidModel(f"{path} does not fit the base: of the tensor {quoted(name)}, {problem}")


def _misfit(weights: GgufTensor, a: GgufTensor, b: GgufTensor) -> str | None:
    """Why llama.cpp could not compute with this pair beside these weights: the end of a sentence."""
    for part in (a, b):
        if part.type.name in _NO_WEIGHTS:
            return f"{part.name[-len(_A) + 1 :]} has the type {part.type.name}, which is none of weights"
    columns, rows, *count = _padded(weights.shape)
    first, second = _padded(a.shape), _padded(b.shape)
    if weights.name == _LOOKED_UP:
        rank = first[0]
        wanted = (rank, rows, *count), (rank, columns, *count)
    else:
        rank = first[1]
        wanted = (columns, rank, *count), (rank, rows, *count)
    if (first, second) == wanted:
        return None
    return f"lora_a has the shape {a.shape} and lora_b {b.shape}, and the weights of the base {weights.shape}"


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape + (1,) * (_DIMENSIONS - len(shape))
