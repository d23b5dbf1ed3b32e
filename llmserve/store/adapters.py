"""Adapters (LoRA) in GGUF files: changes to the weights of a model of one architecture, no models themselves.

The form is that of llama.cpp (`llama_adapter_lora_init` in `src/llama-adapter.cpp`): `general.type` is "adapter",
`adapter.type` is "lora", and the tensors come in pairs of low rank, `<weights>.lora_a` and `<weights>.lora_b`.
"""

from __future__ import annotations

from pathlib import Path

from llmserve.errors import InvalidModel
from llmserve.store.files import sha256_of
from llmserve.store.gguf import read_header
from llmserve.store.gguf_bytes import quoted
from llmserve.store.gguf_header import GgufHeader
from llmserve.store.manifests import Companion
from llmserve.store.progress import Report

_SUFFIXES = (".lora_a", ".lora_b")


def read_adapter(path: Path, architecture: str, report: Report) -> Companion:
    """The adapter at `path`, inspected and hashed, to be used where it lies.

    Raises `InvalidModel` for a file that is none or is made for another architecture than the base's. Blocking.
    """
    try:
        resolved = path.expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidModel(
            f"there is no adapter {path}", hint="a path is relative to the file that names it"
        ) from error
    _check(path, read_header(resolved), architecture)
    sha256, identity = sha256_of(resolved, report)
    return Companion(resolved.name, sha256, identity, str(resolved))


def _check(path: Path, header: GgufHeader, architecture: str) -> None:
    kind = header.text("general.type")
    if kind != "adapter":
        what = f"its general.type is {quoted(kind)}" if kind else "it has no general.type"
        raise InvalidModel(f"{path} is no adapter: {what}, not 'adapter'")
    if (form := header.text("adapter.type")) != "lora":
        raise InvalidModel(f"{path} is an adapter of the type {quoted(form or 'unknown')}; only 'lora' can be used")
    made_for = header.text("general.architecture")
    if made_for != architecture:
        raise InvalidModel(
            f"{path} is made for the architecture {quoted(made_for or 'unknown')}, the base is {quoted(architecture)}"
        )
    names = {tensor.name for tensor in header.tensors}
    bases = {name.removesuffix(suffix) for suffix in _SUFFIXES for name in names if name.endswith(suffix)}
    if not bases or any(f"{base}{suffix}" not in names for base in bases for suffix in _SUFFIXES):
        raise InvalidModel(f"{path} is no sound adapter: its tensors are no pairs of .lora_a and .lora_b")
