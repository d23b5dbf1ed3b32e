"""`llmserve connect`: the settings with which a client finds the server."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import print_answer, talk, warn
from llmserve.errors import AuthenticationFailed, Conflict, DeadlineExceeded, InvalidRequest, ModelNotFound, Unavailable

if TYPE_CHECKING:
    from llmserve.cli.clients import Connection
    from llmserve.settings import Settings

CLIENTS = ("openai", "open-webui", "anthropic", "ollama", "langchain", "continue", "claude-code")

# Claude Code sends its value beside the key it was given, and a server refuses two that differ.
_OTHER_KEY = "ANTHROPIC_API_KEY"
_HIDDEN_KEY = "<key of the server>"


@click.command("connect")
@click.argument("client", type=click.Choice(CLIENTS))
@click.option(
    "--model",
    metavar="MODEL",
    shell_complete=installed_models,
    help="The model to name (default: one that is loaded, or the newest).",
)
@click.option("--show-key", is_flag=True, help="Print the server's key too.")
@click.option("--write", is_flag=True, help="Write into the client's configuration file, the key included.")
@click.option(
    "--file", type=click.Path(path_type=Path), metavar="FILE", help="With --write: this file, `.env` for most clients."
)
def command(client: str, model: str | None, show_key: bool, write: bool, file: Path | None) -> None:
    """Print the settings with which CLIENT finds this server.

    Variables for the shell, or what belongs into the client's own file. With --write they are put there; everything
    else in the file stays, and the old one is kept beside it.
    """
    from llmserve.cli.clients import own_file, snippet
    from llmserve.settings import load_settings

    settings = load_settings()
    own = own_file(client, os.environ)
    if file is not None and not write:
        raise InvalidRequest("`--file` needs `--write`", param="file")
    path = file or own
    if write and path is None:
        raise InvalidRequest(
            f"{client} has no configuration file of its own",
            param="file",
            hint="name the `.env` file that its variables are read from: `--write --file .env`",
        )
    if settings.uds is not None:
        raise InvalidRequest(
            "the settings name a Unix socket, which these clients cannot use",
            param="uds",
            hint="serve at a port: `llmserve serve --port 11435`, without LLMSERVE_UDS",
        )
    name, refusal = _model(settings, model)
    key = settings.api_key
    if write and path is not None:
        if refusal is not None:
            raise refusal
        _write(client, _connection(settings, name, key), path, is_own=path == own)
        return
    if refusal is not None:
        key = _HIDDEN_KEY
        warn(f"{refusal.message}: {refusal.hint}")
    elif key is not None and not show_key:
        key = _HIDDEN_KEY
        talk("`--show-key` prints the server's key too")
    if own is not None:
        talk(f"for {own}, where `--write` puts it:")
    print_answer(snippet(client, _connection(settings, name, key)) + "\n")


def _connection(settings: Settings, model: str, key: str | None) -> Connection:
    from llmserve.cli.clients import Connection
    from llmserve.settings import DEFAULT_HOST, DEFAULT_PORT

    host = DEFAULT_HOST if settings.host is None else settings.host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (an address to replace, not to bind)
    place = f"http://[{host}]" if ":" in host else f"http://{host}"
    port = DEFAULT_PORT if settings.port is None else settings.port
    return Connection(f"{place}:{port}", f"{place}:{settings.ollama_port or port}", key, model)


def _model(settings: Settings, asked: str | None) -> tuple[str, AuthenticationFailed | None]:
    """The name of the model to use, and what to say of the settings' key where the server refuses it."""
    from llmserve.cli.connection import running_gateway

    refusal = None
    try:
        with running_gateway(settings) as gateway:
            entries = gateway.models()
    except (Unavailable, DeadlineExceeded) as error:
        warn(f"{error.message}; the settings hold once one runs there")
        entries = _installed(settings)
    except AuthenticationFailed:
        refusal = AuthenticationFailed("the server wants another key", hint="LLMSERVE_API_KEY has to be the server's")
        entries = _installed(settings)
    return _chosen(entries, asked), refusal


def _installed(settings: Settings) -> list[dict[str, Any]]:
    """The installed models, as a server lists them."""
    from llmserve.api.entries import ModelEntries
    from llmserve.cli.models import open_serving_store

    return ModelEntries(open_serving_store(settings)).all()


def _chosen(entries: list[dict[str, Any]], asked: str | None) -> str:
    """The entry that is asked for, else one that is loaded, else the newest."""
    if asked is not None:
        named = [entry for entry in entries if asked == entry["id"] or asked in entry.get("aliases", ())]
        if not named:
            raise ModelNotFound(f"`{asked}` is not installed", hint=f"`llmserve pull {asked}` gets it")
        return str(named[0]["id"])
    writers = [entry for entry in entries if entry.get("kind", "generate") == "generate"]
    if not writers:
        raise ModelNotFound("no model that writes text is installed", hint="`llmserve pull smollm2` gets a small one")
    return str(max(writers, key=_preference)["id"])


def _preference(entry: Mapping[str, Any]) -> tuple[bool, int]:
    return entry.get("status", {}).get("value") == "loaded", entry.get("created", 0)


def _write(client: str, connection: Connection, path: Path, *, is_own: bool) -> None:
    """Put the settings into the file at `path`; `is_own`: the one that the client reads by itself."""
    from llmserve.cli.config_file import rewrite

    if client == "continue":
        older = path.with_name("config.json")
        if is_own and older.exists() and not path.exists():
            raise Conflict(
                f"Continue reads {older} now, and would no longer with a config.yaml beside it",
                hint=f"move its settings there first, or `llmserve connect {client} --write --file {path}`",
            )
    if client == "claude-code" and os.environ.get(_OTHER_KEY):
        warn(f"{_OTHER_KEY} is set in this shell, and would be sent too: unset it where Claude Code runs")
    result = rewrite(path, _edit(client, connection), private=connection.key is not None)
    if not result.changed:
        talk(f"{result.path} says so already")
        return
    kept = "" if result.backup is None else f"; what was there before is {result.backup}"
    talk(f"wrote {result.path}{kept}")


def _edit(client: str, connection: Connection) -> Callable[[str], str]:
    from llmserve.cli.clients import continue_model, variables
    from llmserve.cli.config_text import with_environment, with_model, with_variables

    match client:
        case "continue":
            return lambda text: with_model(text, continue_model(connection))
        case "claude-code":
            return lambda text: with_environment(text, variables(client, connection))
    return lambda text: with_variables(text, variables(client, connection))
