"""`llmserve lock`: write down which models exactly."""

from __future__ import annotations

from pathlib import Path

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import talk, warn


@click.command("lock")
@click.argument("models", metavar="[MODEL...]", nargs=-1, shell_complete=installed_models)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("models.lock"),
    show_default=True,
    metavar="FILE",
    help="The lock file to write, over an older one.",
)
def command(models: tuple[str, ...], output: Path) -> None:
    """Write down which models exactly.

    The lock file is of the models named (default: of all that are installed).

    It states source, commit, files, sizes, SHA-256, template and settings of each. `llmserve pull --locked` gets
    exactly these elsewhere or fails, and `llmserve serve --locked` serves no others. What it names is never removed
    to make room, for as long as the file exists.
    """
    from llmserve.cli.models import known_model, open_store
    from llmserve.errors import InvalidRequest
    from llmserve.settings import home_directory, load_settings
    from llmserve.store.lock_links import remember_lock
    from llmserve.store.lockfile import lock_models, write_lock

    settings = load_settings()
    store = open_store(settings)
    names = [known_model(store, model).name for model in models] or [model.name for model in store.list()]
    if not models and (damaged := store.damaged()):
        raise InvalidRequest(f"`{damaged[0].name}` {damaged[0].reason}", param="model", hint="llmserve verify --repair")
    if not names:
        raise InvalidRequest("no model is installed", hint="`llmserve pull MODEL` gets one")
    lock = lock_models(store, output.absolute(), names, settings)
    write_lock(lock)
    remember_lock(home_directory(settings), lock.path)
    for model in lock.models:
        talk(f"locked {model.name}: {model.source}")
    for model in lock.models:
        if model.source.startswith("file:"):
            warn(f"`{model.name}` is a file of your own: elsewhere `pull --locked` finds it at the same path, or fails")
    talk(f"wrote {output}")
