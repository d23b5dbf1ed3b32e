"""`llmserve show`: what is known of one model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import age_text, bytes_text, print_answer, print_json, print_table
from llmserve.errors import InvalidRequest, ModelNotFound
from llmserve.openai.adapters import split_adapter, with_adapter

if TYPE_CHECKING:
    from llmserve.store.store import Store
    from llmserve.types import AdapterFile, InstalledModel, ModelInfo


@click.command("show")
@click.argument("model", shell_complete=installed_models)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--template", is_flag=True, help="Print the chat template and nothing else.")
def command(model: str, as_json: bool, template: bool) -> None:
    """Show what is known of a model.

    Its shape, context, licence and file; nothing is loaded, and a file given by its path is not added to the store.
    """
    from llmserve.cli.models import open_store
    from llmserve.settings import load_settings
    from llmserve.types import to_json

    store = open_store(load_settings())
    installed = _installed(store, model)
    info = store.inspect(split_adapter(model)[0])
    if template:
        if info.chat_template is None:
            raise InvalidRequest(f"`{model}` has no chat template", param="model")
        print_answer(info.chat_template)
    elif as_json:
        known = None if installed is None else json.loads(to_json(installed))
        print_json({"installed": known, "model": json.loads(to_json(info))})
    else:
        print_table(_model_rows(info) + ([] if installed is None else _installed_rows(installed)))


def _installed(store: Store, text: str) -> InstalledModel | None:
    """What the store knows of the model; None for a file that it does not know."""
    from llmserve.cli.models import known_model
    from llmserve.store.names import is_path

    try:
        return known_model(store, text)
    except ModelNotFound:
        if not is_path(text):
            raise
        return None


def _model_rows(info: ModelInfo) -> list[tuple[str, str]]:
    windows = sorted({layer.sliding_window for layer in info.layers if layer.sliding_window})
    kv_heads = sorted({layer.kv_heads for layer in info.layers})
    return [
        ("title", info.name or "unknown"),
        ("kind", info.kind),
        ("architecture", info.architecture),
        ("parameters", f"{info.parameters / 1e6:,.1f} million"),
        ("quantization", f"{info.quantization} ({', '.join(f'{kind} {count}' for kind, count in info.tensor_types)})"),
        ("size", bytes_text(info.size_bytes)),
        ("context", f"{info.context_length} tokens"),
        ("kv cache", f"{bytes_text(_kv_bytes_per_token(info))} per token (f16)"),
        ("layers", str(len(info.layers))),
        ("heads", f"{info.heads}, {' or '.join(map(str, kv_heads))} of keys and values"),
        ("embedding", str(info.embedding_length)),
        ("sliding window", ", ".join(map(str, windows)) or "none"),
        ("vocabulary", f"{info.vocabulary} tokens"),
        ("chat template", "yes" if info.chat_template else "none"),
        ("license", info.license or "unknown"),
    ]


def _kv_bytes_per_token(info: ModelInfo) -> int:
    """What one more token takes in the KV cache, in 16 bits, before windows are full."""
    return sum(layer.kv_heads * (layer.key_length + layer.value_length) for layer in info.layers) * 2


def _adapter_text(installed: InstalledModel, adapter: AdapterFile) -> str:
    default = ", on by default" if adapter.default else ""
    text = f"{adapter.path} (scale {adapter.scale:g}{default})"
    return text if adapter.name is None else f"{with_adapter(installed.name, adapter.name)}: {text}"


def _commit(source: str) -> str | None:
    """The commit in a source of the Hub, which pins every file."""
    from llmserve.store.names import HubReference, parse_name

    try:
        reference = parse_name(source)
    except InvalidRequest:
        return None
    return reference.revision if isinstance(reference, HubReference) else None


def _installed_rows(installed: InstalledModel) -> list[tuple[str, str]]:
    commit = _commit(installed.source)
    return [
        ("name", installed.name),
        ("aliases", ", ".join(installed.aliases) or "none"),
        ("file", installed.path),
        ("source", installed.source),
        *([("commit", commit)] if commit else []),
        ("sha256", installed.sha256),
        *([("template", "of its own")] if installed.template else []),
        *[("adapter", _adapter_text(installed, adapter)) for adapter in installed.adapters],
        *([("pinned", "yes")] if installed.pinned else []),
        ("pulled", age_text(installed.pulled_at)),
    ]
