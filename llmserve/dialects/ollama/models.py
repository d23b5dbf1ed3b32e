"""Models as Ollama describes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from llmserve.dialects.ollama.answers import timestamp
from llmserve.openai.adapters import split_adapter
from llmserve.types import EnginePlan, InstalledModel, ModelInfo

# What is spoken here. Clients compare it with the version that brought a feature they need.
SPOKEN_VERSION = "0.33.0"
# Its names of request fields, where they differ.
_PARAMETERS = {"max_tokens": "num_predict"}
_THINKING_MARKS = ("enable_thinking", "reasoning_effort", "<think>", "<|channel|>", "reasoning_content")


def model_entry(model: InstalledModel, info: ModelInfo | None) -> dict[str, Any]:
    """One of `models` in `GET /api/tags`; `info` is None for a file that cannot be read any more."""
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": timestamp(datetime.fromtimestamp(model.pulled_at, UTC)),
        "size": model.size_bytes,
        "digest": model.sha256,
        "details": details(model, info),
    }


def running_entry(
    model: InstalledModel, info: ModelInfo | None, plan: EnginePlan, expires_at: datetime
) -> dict[str, Any]:
    """One of `models` in `GET /api/ps`."""
    entry = model_entry(model, info)
    del entry["modified_at"]
    used = {memory.device: memory.total for memory in plan.memory}
    return {
        **entry,
        "size": sum(used.values()) or model.size_bytes,
        "expires_at": timestamp(expires_at),
        "size_vram": sum(used.values()) - used.get("ram", 0),
        "context_length": plan.context,
    }


def details(model: InstalledModel, info: ModelInfo | None) -> dict[str, Any]:
    """What kind of model it is: format, family, size and quantization."""
    family = info.architecture if info is not None else ""
    base, adapter = split_adapter(model.name)
    return {
        "parent_model": "" if adapter is None else base,
        "format": model.format,
        "family": family,
        "families": [family] if family else [],
        "parameter_size": parameter_size(info.parameters) if info is not None else "",
        "quantization_level": model.quantization,
    }


def parameter_size(parameters: int) -> str:
    """The number of parameters as people write it: 134.5M, 7.2B."""
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.1f}M" if parameters >= 1_000_000 else f"{parameters / 1e3:.1f}K"


def description(
    model: InstalledModel, info: ModelInfo, system: str | None, defaults: Mapping[str, float]
) -> dict[str, Any]:
    """The answer of `POST /api/show`. `system` and the request fields in `defaults` are what suits the model."""
    parameters = [f"{_PARAMETERS.get(name, name)} {value:g}" for name, value in defaults.items()]
    modelfile = [f"FROM {model.name}", *(f"PARAMETER {line}" for line in parameters)]
    if system:
        modelfile.append(f'SYSTEM """{system}"""')
    shown: dict[str, Any] = {
        "modelfile": "\n".join(modelfile),
        "parameters": "\n".join(parameters),
        "template": info.chat_template or "",
        "details": details(model, info),
        "model_info": dict(_model_info(info)),
        "capabilities": capabilities(info),
        "modified_at": timestamp(datetime.fromtimestamp(model.pulled_at, UTC)),
    }
    if system:
        shown["system"] = system
    if info.license:
        shown["license"] = info.license
    return shown


def capabilities(info: ModelInfo) -> list[str]:
    """What can be asked of the model. Tools are told to every model that writes, in its own form or in words."""
    if info.kind != "generate":
        return ["embedding"]
    template = info.chat_template or ""
    thinks = any(mark in template for mark in _THINKING_MARKS)
    return ["completion", "tools", *(["thinking"] if thinks else [])]


def _model_info(info: ModelInfo) -> Iterable[tuple[str, Any]]:
    architecture = info.architecture
    yield "general.architecture", architecture
    if info.name:
        yield "general.name", info.name
    yield "general.parameter_count", info.parameters
    yield f"{architecture}.context_length", info.context_length
    yield f"{architecture}.embedding_length", info.embedding_length
    yield f"{architecture}.feed_forward_length", info.feed_forward_length
    yield f"{architecture}.block_count", len(info.layers)
    yield f"{architecture}.attention.head_count", info.heads
    yield f"{architecture}.vocab_size", info.vocabulary
