"""`llmserve show`: what is known of one model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from llmserve.cli.terminal import age_text, bytes_text, print_json, print_table

if TYPE_CHECKING:
    from llmserve.types import InstalledModel, ModelInfo


@click.command("show")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, as_json: bool) -> None:
    """Show what is known of a model.

    Its shape, context, licence and file; nothing is loaded.
    """
    from llmserve.cli.models import installed_model, open_store
    from llmserve.settings import load_settings
    from llmserve.types import to_json

    store = open_store(load_settings())
    installed = installed_model(store, model)
    info = store.inspect(installed.name)
    if as_json:
        print_json({"installed": json.loads(to_json(installed)), "model": json.loads(to_json(info))})
    else:
        print_table(_rows(installed, info))


def _rows(installed: InstalledModel, info: ModelInfo) -> list[tuple[str, str]]:
    windows = sorted({layer.sliding_window for layer in info.layers if layer.sliding_window})
    return [
        ("name", installed.name),
        ("aliases", ", ".join(installed.aliases) or "none"),
        ("title", info.name or "unknown"),
        ("kind", info.kind),
        ("architecture", info.architecture),
        ("parameters", f"{info.parameters / 1e6:,.1f} million"),
        ("quantization", f"{info.quantization} ({', '.join(f'{kind} {count}' for kind, count in info.tensor_types)})"),
        ("size", bytes_text(installed.size_bytes)),
        ("context", f"{info.context_length} tokens"),
        ("layers", str(len(info.layers))),
        ("heads", f"{info.heads} ({', '.join(map(str, sorted({layer.kv_heads for layer in info.layers})))} for keys)"),
        ("embedding", str(info.embedding_length)),
        ("sliding window", ", ".join(map(str, windows)) or "none"),
        ("vocabulary", f"{info.vocabulary} tokens"),
        ("chat template", "yes" if info.chat_template else "none"),
        ("license", info.license or "unknown"),
        ("file", installed.path),
        ("source", installed.source),
        ("sha256", installed.sha256),
        ("pulled", age_text(installed.pulled_at)),
    ]
