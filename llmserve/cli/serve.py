"""`llmserve serve`: the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.options import plan_options
from llmserve.cli.terminal import warn
from llmserve.errors import InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from llmserve.settings import Settings


@click.command("serve")
@click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=installed_models)
@click.option("--host", metavar="ADDRESS", help="The address to listen on (default: 127.0.0.1).")
@click.option("--port", type=int, help="The port to listen on (default: 11435).")
@click.option("--uds", type=click.Path(path_type=Path), metavar="PATH", help="Listen on this Unix socket instead.")
@click.option("--ollama-port", type=int, metavar="PORT", help="Listen here too, for clients of Ollama (11434).")
@click.option("--insecure-no-auth", is_flag=True, default=None, help="Allow an address off loopback without a key.")
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="One more name for this server.")
@click.option(
    "--allowed-origin", "allowed_origins", multiple=True, metavar="ORIGIN", help="One more web page that may ask."
)
@click.option("--strict", is_flag=True, default=None, help="Refuse requests with fields that nobody knows.")
@click.option("--page/--no-page", default=None, help="Whether browsers get a page at / (they do).")
@click.option("--max-output-tokens", type=int, metavar="N", help="The cap of a request that states none.")
@click.option("--keep-alive", type=float, metavar="SECONDS", help="How long an idle model stays loaded (-1: always).")
@click.option(
    "--locked",
    is_flag=False,
    flag_value=Path("models.lock"),
    type=click.Path(path_type=Path),
    metavar="[FILE]",
    help="Serve only what this lock file names (default: models.lock).",
)
@click.option("--until-input-ends", is_flag=True, hidden=True)
@plan_options
def command(models: tuple[str, ...], until_input_ends: bool, **flags: Any) -> int:
    """Serve models over HTTP.

    Each MODEL is loaded at the start, others on first use. Clients must send the key in LLMSERVE_API_KEY, if
    there is one.
    """
    from llmserve.cli.private import stop_when_input_ends
    from llmserve.settings import load_settings

    if until_input_ends:
        stop_when_input_ends()
    settings = load_settings({name: None if value == () else value for name, value in flags.items()})
    settings = _locked(settings)
    names = _installed_names(settings, models)

    from llmserve.api.server import serve

    # A private server is there for one command, and not for what others have left.
    return serve(settings, names, resumes_batches=not until_input_ends)


def _locked(settings: Settings) -> Settings:
    """The settings with those of the lock file that they name, after a warning for each model that is not served."""
    if settings.locked is None:
        return settings
    from llmserve.store.serving import locked_settings, serving_store

    for problem in serving_store(settings).not_served():
        warn(problem)
    return locked_settings(settings)


def _installed_names(settings: Settings, models: tuple[str, ...]) -> tuple[str, ...]:
    if not models:
        return ()
    from llmserve.cli.models import installed_model, open_serving_store

    store = open_serving_store(settings)
    names: list[str] = []
    for model in models:
        try:
            names.append(installed_model(store, model).name)
        except ModelNotFound as error:
            raise InvalidRequest(error.message, param="model", hint=error.hint) from error
    return tuple(dict.fromkeys(names))
