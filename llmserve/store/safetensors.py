"""The inspector of a directory of safetensors: weights, `config.json` and tokenizer, without loading or trusting them.

A repository may carry Python files, and its JSON may name them (`auto_map`) or ask for other code. Nothing of that is
ever fetched or run, so a model that needs it would not work: it is refused here, before an engine imports anything.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from llmserve.errors import InvalidModel
from llmserve.store.bounded_json import UnsoundJson, parse_bounded
from llmserve.store.gguf_bytes import quoted
from llmserve.store.safetensors_header import SafeTensor, read_tensors
from llmserve.store.safetensors_model import describe
from llmserve.store.sources.hub_choice import (
    COMPANIONS,
    CONFIG,
    INDEX,
    MODULES,
    SENTENCES,
    safetensors_files,
)
from llmserve.types import ModelInfo

_TEMPLATE = "chat_template.jinja"
_TEMPLATE_BYTES = 256 * 1024
_VALUES_LIMIT = 300_000
# The largest published ones are tokenizers of a quarter of a million words, which are passed on unread.
_LIMIT_BYTES = {
    "added_tokens.json": 8 * 1024**2,
    _TEMPLATE: _TEMPLATE_BYTES,
    CONFIG: 1024**2,
    "generation_config.json": 1024**2,
    INDEX: 16 * 1024**2,
    MODULES: 64 * 1024,
    SENTENCES: 64 * 1024,
    "special_tokens_map.json": 1024**2,
    "tokenizer_config.json": 8 * 1024**2,
    "merges.txt": 64 * 1024**2,
    "tokenizer.json": 64 * 1024**2,
    "tokenizer.model": 64 * 1024**2,
    "vocab.json": 64 * 1024**2,
}
_READ = frozenset({CONFIG, SENTENCES, "generation_config.json", "special_tokens_map.json", "tokenizer_config.json"})
# How archives and pickles begin, whatever they are called: protocol 2 to 5, zip, gzip.
_FOREIGN_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x1f\x8b")
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "_attn_implementation_internal"})


def inspect_directory(directory: Path) -> ModelInfo:
    """Describe the model in `directory`, after every check there is. Raises `InvalidModel`."""
    try:
        names = tuple(child.name for child in directory.iterdir() if child.is_file())
    except OSError as error:
        raise InvalidModel(f"the model's directory cannot be read: {error.strerror}") from error
    files = safetensors_files(names)
    if not files:
        _refuse("it has no config.json with .safetensors files beside it")
    texts = {name: _companion(directory / name) for name in files if name in COMPANIONS}
    config = texts[CONFIG]
    tensors: list[SafeTensor] = []
    weights = [name for name in files if name.endswith(".safetensors")]
    for name in weights:
        tensors.extend(read_tensors(directory / name))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        _refuse("two of its files have a tensor of the same name")
    if INDEX in texts:
        _check_index(texts[INDEX], weights)
    size_bytes = sum((directory / name).stat().st_size for name in files)
    info = describe(config, tuple(tensors), size_bytes, _template(directory, texts))
    return replace(info, context_length=_longest_text(texts.get(SENTENCES), info.context_length))


def _companion(path: Path) -> Any:
    """A file beside the weights: its value where it is read, None where it is only looked at."""
    limit = _LIMIT_BYTES[path.name]
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= limit:
                _refuse(f"{path.name} is no file of 1 to {limit} bytes")
            is_read = path.name in _READ or path.name == INDEX
            content = file.read(limit if is_read else 64)
    except OSError as error:
        raise InvalidModel(f"{path.name} cannot be read: {error.strerror}") from error
    if content.startswith(_FOREIGN_MAGIC):
        _refuse(f"{path.name} is an archive or a pickle")
    kind, opening = ("list", b"[") if path.name == MODULES else ("object", b"{")
    if path.suffix == ".json" and content.lstrip()[:1] != opening:
        _refuse(f"{path.name} is no JSON {kind}")
    if not is_read:
        return None
    try:
        value = parse_bounded(content, items=_VALUES_LIMIT)
    except UnsoundJson as error:
        _refuse(f"{path.name}: {error}")
    if path.name in _READ:
        _refuse_code(path.name, value)
    return value


def _refuse_code(file: str, value: Any) -> None:
    """Refuse JSON that asks for code, however deep in it."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if (found := _CODE_KEYS & item.keys()) or item.get("trust_remote_code") is True:
                key = min(found, default="trust_remote_code")
                _refuse(f"{file} has `{key}`: it needs code of its repository, which is never run")
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)


def _check_index(index: Any, weights: list[str]) -> None:
    mapping = index.get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(file, str) for file in mapping.values()):
        _refuse(f"{INDEX} has no sound weight_map")
    named = set(mapping.values())
    if strange := named - set(weights):
        _refuse(f"{INDEX} names {quoted(min(strange))}, which is none of the model's files")
    if missing := set(weights) - named:
        _refuse(f"{INDEX} does not name {quoted(min(missing))}")


def _template(directory: Path, texts: dict[str, Any]) -> str | None:
    if _TEMPLATE in texts:
        try:
            return (directory / _TEMPLATE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidModel(f"{_TEMPLATE} cannot be read as text") from error
    template = (texts.get("tokenizer_config.json") or {}).get("chat_template")
    if isinstance(template, list):
        # Several by name; the one that is meant where none is asked for.
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    if template is not None and (not isinstance(template, str) or len(template) > _TEMPLATE_BYTES):
        _refuse("its chat_template is no text of a sound length")
    return template


def _longest_text(sentences: Any, context: int) -> int:
    """The context of a model that was trained on shorter texts than it has positions for, where it says so."""
    longest = (sentences or {}).get("max_seq_length")
    return min(longest, context) if type(longest) is int and longest > 0 else context


def _refuse(problem: str) -> NoReturn:
    raise InvalidModel(f"invalid safetensors model: {problem}")
