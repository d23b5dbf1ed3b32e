"""What a person may set for an answer, by flags of `run` and by `/set` in the chat: one table for both."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from llmserve.errors import InvalidRequest

if TYPE_CHECKING:
    from llmserve.store.defaults import ChatDefaults

Message = dict[str, str]

# The ranges are those of OpenAI's published request, so that a slip is told before anything is loaded.
PARAMETER_TYPES: Mapping[str, click.ParamType[Any]] = {
    "system": click.STRING,
    "temperature": click.FloatRange(0, 2),
    "top_p": click.FloatRange(0, 1),
    "max_tokens": click.IntRange(min=1),
    "seed": click.IntRange(-(2**63), 2**63 - 1),
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """The request's settings besides the conversation; None leaves the choice to the server."""

    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    json_schema: Mapping[str, Any] | None = None

    def request(self, model: str, conversation: Sequence[Message]) -> dict[str, Any]:
        """The chat request for `conversation` (the user's and the assistant's messages, oldest first)."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        request: dict[str, Any] = {"model": model, "messages": [*system, *conversation]}
        for name in ("temperature", "top_p", "max_tokens", "seed"):
            if (value := getattr(self, name)) is not None:
                request[name] = value
        if self.json_schema is not None:
            schema = {"name": "answer", "strict": True, "schema": self.json_schema}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        return request

    def with_defaults(self, defaults: ChatDefaults) -> Parameters:
        """These parameters, with what suits the model where the person stated nothing."""
        known = dataclasses.asdict(defaults)
        return dataclasses.replace(self, **{name: known[name] for name in known if getattr(self, name) is None})

    def changed(self, name: str, text: str) -> Parameters:
        """These parameters with `name` set to what `text` says; an empty text sets it back to the server's choice.

        Raises `InvalidRequest` for a name that is not in `PARAMETER_TYPES` or a text that is no value of its type.
        """
        if name not in PARAMETER_TYPES:
            known = ", ".join(PARAMETER_TYPES)
            raise InvalidRequest(f"there is no parameter `{name}`", param=name, hint=f"parameters: {known}")
        try:
            value = PARAMETER_TYPES[name].convert(text, None, None) if text else None
        except click.BadParameter as error:
            raise InvalidRequest(f"`{name}`: {error.message.rstrip('.')}", param=name) from error
        return dataclasses.replace(self, **cast("dict[str, Any]", {name: value}))


def read_schema(path: Path) -> dict[str, Any]:
    """The JSON Schema in `path`. Raises `InvalidRequest` when it is not readable, not JSON or not an object."""
    try:
        schema = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"cannot read the JSON schema `{path}`: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"the JSON schema `{path}` is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema `{path}` is not JSON that can be read") from error
    if not isinstance(schema, dict):
        raise InvalidRequest(
            f"the JSON schema `{path}` is not an object", hint='a schema looks like {"type": "object", ...}'
        )
    return schema
