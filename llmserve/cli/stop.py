"""`llmserve stop`: unload a model from the running server."""

from __future__ import annotations

import click

from llmserve.cli.model_names import installed_models


@click.command("stop")
@click.argument("model", shell_complete=installed_models)
def command(model: str) -> None:
    """Unload a model from the running server."""
    from llmserve.cli.connection import running_gateway
    from llmserve.cli.models import known_model, open_store
    from llmserve.cli.terminal import talk
    from llmserve.settings import load_settings
    from llmserve.store.names import is_path

    settings = load_settings()
    name = known_model(open_store(settings), model).name if is_path(model) else model
    with running_gateway(settings) as gateway:
        stopped = gateway.stop(name)
    talk(f"stopped {name}" if stopped else f"{name} was not loaded")
