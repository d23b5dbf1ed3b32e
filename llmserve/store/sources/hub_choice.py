"""Which files of a repository on the Hub are meant: pure, from their names alone."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from llmserve.errors import InvalidRequest, ModelNotFound
from llmserve.store.names import HubReference, parse_name, shown
from llmserve.store.quantizations import canonical_quantization, is_model_file, is_shard, quantization_of, shard_names
from llmserve.types import ModelFormat

SAFETENSORS = "safetensors"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
# How sentence-transformers write down what a text's vector is made of. vLLM reads it, and would guess without.
MODULES = "modules.json"
SENTENCES = "sentence_bert_config.json"
_POOLING = re.compile(r"\d_Pooling/config\.json", re.ASCII)
_MAX_CHOICES = 40

_WEIGHTS = frozenset({".gguf", ".safetensors"})
COMPANIONS = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    }
)
# The weights as transformers names them; other root files (`consolidated.safetensors`) repeat them in another layout.
_STANDARD_WEIGHTS = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors", re.ASCII)


def is_allowed_file(name: str) -> bool:
    """Whether a file of a repository may be fetched at all: weights in formats without code, and their descriptions."""
    path = PurePosixPath(name)
    return path.suffix in _WEIGHTS or path.name in COMPANIONS


def choose_files(
    reference: HubReference, names: tuple[str, ...], model_format: ModelFormat | None = None
) -> tuple[str, ...]:
    """The files of the model that is meant, the one to be loaded first: the one named, or the only one there is.

    Raises `ModelNotFound` where there is none, `InvalidRequest` listing the commands to choose from where there are
    several, or for a file that is not fetched or not served.
    """
    which = reference.file
    if which is None:
        return _only_model(reference, names, model_format)
    if which.lower() == SAFETENSORS:
        if not (files := safetensors_files(names)):
            raise ModelNotFound(f"{reference.repo_id} has no safetensors model", param="model")
        return files
    if "/" in which or which.lower().endswith((".gguf", ".safetensors", ".json")) or which in names:
        return _named_file(reference, which, names)
    return _quantized(reference, which, names)


def _only_model(reference: HubReference, names: tuple[str, ...], model_format: ModelFormat | None) -> tuple[str, ...]:
    choices = _choices(reference, names)
    if model_format is not None:
        choices = {
            which: files for which, files in choices.items() if (which == SAFETENSORS) == (model_format == SAFETENSORS)
        }
    if not choices:
        raise ModelNotFound(f"{reference.repo_id} has no .gguf file or safetensors that can be served", param="model")
    if len(choices) > 1:
        gguf_files = sum(which != SAFETENSORS for which in choices)
        also = " and safetensors" if SAFETENSORS in choices else ""
        raise InvalidRequest(
            f"{reference.repo_id} has {gguf_files} GGUF model{'s' if gguf_files != 1 else ''}{also}",
            param="model",
            hint=_offer(reference, list(choices)),
        )
    return next(iter(choices.values()))


def _choices(reference: HubReference, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Every model of the repository, by what `which` names it most briefly."""
    models = [name for name in names if is_model_file(name) and _is_speakable(reference, name)]
    labels = [quantization_of(name) for name in models]
    choices: dict[str, tuple[str, ...]] = {}
    for name, label in sorted(zip(models, labels, strict=True)):
        files = shard_names(name)
        if all(file in names for file in files):
            choices[label if label is not None and labels.count(label) == 1 else name] = files
    if files := safetensors_files(names):
        choices[SAFETENSORS] = files
    return choices


def _named_file(reference: HubReference, which: str, names: tuple[str, ...]) -> tuple[str, ...]:
    if not is_allowed_file(which) or not which.endswith(".gguf"):
        raise InvalidRequest(
            f"`{which}` is not a .gguf file",
            param="model",
            hint="`:safetensors` means all files of a safetensors model",
        )
    files = shard_names(which)
    if missing := [file for file in files if file not in names]:
        what = f"no file `{missing[0]}`" if not is_shard(which) else f"only a part of `{which}`: `{missing[0]}` lacks"
        raise ModelNotFound(f"{reference.repo_id} has {what}", param="model")
    return files


def _quantized(reference: HubReference, label: str, names: tuple[str, ...]) -> tuple[str, ...]:
    choices = _choices(reference, names)
    wanted = canonical_quantization(label)
    matching = [
        which for which, files in choices.items() if which != SAFETENSORS and quantization_of(files[0]) == wanted
    ]
    if len(matching) == 1:
        return choices[matching[0]]
    if matching:
        raise InvalidRequest(
            f"{reference.repo_id} has {len(matching)} files of the quantization {wanted}",
            param="model",
            hint=_offer(reference, matching),
        )
    raise ModelNotFound(
        f"{reference.repo_id} has no {shown(label)}", param="model", hint=_offer(reference, list(choices)) or None
    )


def safetensors_files(names: tuple[str, ...]) -> tuple[str, ...]:
    """The files of the safetensors model at the root of a repository, `config.json` first; none without one."""
    root = [name for name in names if "/" not in name]
    weights = sorted(name for name in root if name.endswith(".safetensors"))
    standard = [name for name in weights if _STANDARD_WEIGHTS.fullmatch(name)]
    chosen = standard or [name for name in weights if not name.startswith(("adapter_", "consolidated"))]
    if not chosen or CONFIG not in root:
        return ()
    companions = [name for name in root if name in COMPANIONS and name != CONFIG]
    pooling = [name for name in names if _POOLING.fullmatch(name)] if MODULES in root else []
    return (CONFIG, *chosen, *sorted([*companions, *pooling]))


def _offer(reference: HubReference, choices: list[str]) -> str:
    commands = [f"`llmserve pull {_spelled(reference, which)}`" for which in choices[:_MAX_CHOICES]]
    return "choose: " + ", ".join(commands) if commands else ""


def _spelled(reference: HubReference, which: str) -> str:
    return str(HubReference(reference.owner, reference.repository, reference.revision, which))


def _is_speakable(reference: HubReference, name: str) -> bool:
    """Whether a reference can name the file; those with `..`, spaces or control characters in them cannot."""
    try:
        parse_name(_spelled(reference, name))
    except InvalidRequest:
        return False
    return True
