"""`model@adapter`: a model of one's own, with one of the adapters (LoRA) that it was created with.

    support:latest@polite           the adapter `polite`
    support:latest                  the one that is on by default, or else none
    support:latest@none             none

In a text with a slash `@` means something else: `hf:owner/repository@revision`. And what ends with `.gguf` is a path.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from llmserve.errors import AdapterNotFound, InvalidRequest
from llmserve.installed import InstalledModel

# What asks for no adapter, which none can be called.
NO_ADAPTER = "none"


def split_adapter(model: str) -> tuple[str, str | None]:
    """The name of the model, and that of the adapter where one is asked for."""
    if "@" not in model or "/" in model or model.lower().endswith(".gguf"):
        return model, None
    name, _, adapter = model.partition("@")
    return name, adapter


def with_adapter(model: str, adapter: str | None) -> str:
    """The name under which a model answers with an adapter; None: none was asked for."""
    return model if adapter is None else f"{model}@{adapter}"


def named_with(model: InstalledModel, adapter: str | None) -> InstalledModel:
    """The model under the name that it has with this adapter; None: as it is."""
    return model if adapter is None else replace(model, name=with_adapter(model.name, adapter), aliases=())


def with_each_adapter(model: InstalledModel) -> list[InstalledModel]:
    """The model, and behind it once under the name that it has with each of its adapters."""
    return [model, *(named_with(model, adapter) for adapter in model.adapter_names)]


def refuse_adapter(model: str) -> None:
    """Raise `InvalidRequest` where `model` names an adapter and what is to be done concerns the whole model."""
    name, adapter = split_adapter(model)
    if adapter is not None:
        raise InvalidRequest(
            "an adapter is part of the model it was created with", param="model", hint=f"the model is `{name[:64]}`"
        )


def require_adapter(model: InstalledModel, adapter: str | None) -> None:
    """Raise `AdapterNotFound` where the model has no adapter of that name; None asks for none in particular."""
    if adapter is None:
        return
    named = model.adapter_names
    if model.format != "gguf":
        hint = f"adapters are for GGUF models, which llama.cpp runs; `{model.name}` is run by vLLM"
        raise AdapterNotFound(f"`{model.name}` cannot take adapters", param="model", hint=hint)
    if not named or adapter not in (*named, NO_ADAPTER):
        raise unknown_adapter(model.name, adapter, named)


def unknown_adapter(model: str, adapter: str, known: Collection[str]) -> AdapterNotFound:
    """What to say of an adapter that a model does not have; `known` are those that it has."""
    shown = adapter[:64].encode("unicode_escape").decode("ascii")
    names = ", ".join(f"`{with_adapter(model, name)}`" for name in known)
    hint = f"there is {names}" if known else f"no adapter of `{model}` has a name; `llmserve create` gives them"
    return AdapterNotFound(f"`{model}` has no adapter `{shown}`", param="model", hint=hint)
