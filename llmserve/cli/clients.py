"""What each client has to be told to talk to a server: in variables of its environment, or in a file of its own.

Checked against openai-python 3, open-webui 0.12, anthropic-python, ollama-python 0.6, langchain-openai 1.7, Continue's
config.yaml (schema v1) and Claude Code's settings.json.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Clients insist on a key; a server without one reads none.
NO_KEY = "unused"


@dataclass(frozen=True, slots=True)
class Connection:
    """`url` is the server's root, without a path, and `ollama_url` where it speaks Ollama's API. `key` is what the
    client sends, None where the server wants none; `model` is a model that is installed."""

    url: str
    ollama_url: str
    key: str | None
    model: str

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"


def variables(client: str, connection: Connection) -> dict[str, str]:
    """The variables of the client's environment; of Claude Code those in its settings file."""
    key = connection.key or NO_KEY
    match client:
        case "openai":
            return {"OPENAI_BASE_URL": connection.openai_url, "OPENAI_API_KEY": key}
        case "langchain":
            return {"OPENAI_API_BASE": connection.openai_url, "OPENAI_API_KEY": key}
        case "open-webui":
            # With this provider it shows which models are loaded, and loads and unloads them. The header tells titles
            # and tags, which can wait, from what somebody waits for.
            connected = {"enable": True, "provider": "llama.cpp", "headers": {"X-Task": "{{TASK}}"}}
            provider = json.dumps({"0": connected}, separators=(",", ":"))
            return {
                "OPENAI_API_BASE_URL": connection.openai_url,
                "OPENAI_API_KEY": key,
                "OPENAI_API_CONFIGS": provider,
                "ENABLE_OLLAMA_API": "false",
            }
        case "anthropic":
            return {"ANTHROPIC_BASE_URL": connection.url, "ANTHROPIC_API_KEY": key}
        case "ollama":
            with_key = {"OLLAMA_API_KEY": connection.key} if connection.key is not None else {}
            return {"OLLAMA_HOST": connection.ollama_url, **with_key}
        case "claude-code":
            models = ("MODEL", "DEFAULT_OPUS_MODEL", "DEFAULT_SONNET_MODEL", "DEFAULT_HAIKU_MODEL")
            return {
                "ANTHROPIC_BASE_URL": connection.url,
                "ANTHROPIC_AUTH_TOKEN": key,
                **{f"ANTHROPIC_{name}": connection.model for name in models},
            }
    raise ValueError(f"`{client}` has no variables")


def continue_model(connection: Connection) -> dict[str, str]:
    """The entry of Continue's `models`."""
    return {
        "name": f"llmserve {connection.model}",
        "provider": "openai",
        "model": connection.model,
        "apiBase": connection.openai_url,
        "apiKey": connection.key or NO_KEY,
    }


def snippet(client: str, connection: Connection) -> str:
    """The settings as text: for the shell, for the client's own file, or as the lines of a program."""
    match client:
        case "continue":
            lines = [f"{name}: {json.dumps(value)}" for name, value in continue_model(connection).items()]
            return "models:\n  - " + "\n    ".join(lines)
        case "claude-code":
            return json.dumps({"env": variables(client, connection)}, indent=2)
        case "langchain":
            return (
                "from langchain_openai import ChatOpenAI\n\n"
                "model = ChatOpenAI(\n"
                f"    base_url={json.dumps(connection.openai_url)},\n"
                f"    api_key={json.dumps(connection.key or NO_KEY)},\n"
                f"    model={json.dumps(connection.model)},\n"
                # Else it counts no tokens in streams of servers it does not know.
                "    stream_usage=True,\n"
                ")"
            )
    exports = [_export(name, value) for name, value in variables(client, connection).items()]
    more = (
        []
        if client != "open-webui"
        else ["# documents, by an embedding model that is installed:", *_documents(connection)]
    )
    return "\n".join([f"# model: {connection.model}", *exports, *more])


def _documents(connection: Connection) -> list[str]:
    """Lines that are comments, since they name a model that may not be here."""
    settings = {
        "RAG_EMBEDDING_ENGINE": "openai",
        "RAG_EMBEDDING_MODEL": "nomic-embed-text",
        "RAG_OPENAI_API_BASE_URL": connection.openai_url,
        "RAG_OPENAI_API_KEY": connection.key or NO_KEY,
    }
    return [f"# {_export(name, value)}" for name, value in settings.items()]


def _export(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}"


def own_file(client: str, environ: Mapping[str, str]) -> Path | None:
    """Where the client reads its settings, None where it has no file of its own."""
    match client:
        case "continue":
            return Path(environ.get("CONTINUE_GLOBAL_DIR") or "~/.continue").expanduser() / "config.yaml"
        case "claude-code":
            return Path(environ.get("CLAUDE_CONFIG_DIR") or "~/.claude").expanduser() / "settings.json"
    return None
