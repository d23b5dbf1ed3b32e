"""The tools of one request, as the readers of a model's calls need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TYPE_OF = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
# Deeper alternatives than these say nothing about how a value is written.
_MOST_LEVELS = 8


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. `parameters` is the JSON schema of its arguments, None for none."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The parameters in the order in which the schema states them."""
        properties = (self.parameters or {}).get("properties")
        return tuple(properties) if isinstance(properties, Mapping) else ()

    def types_of(self, parameter: str) -> frozenset[str]:
        """JSON schema's names of the types a parameter may have; empty where the schema does not say."""
        properties = (self.parameters or {}).get("properties")
        schema = properties.get(parameter) if isinstance(properties, Mapping) else None
        return frozenset(_types(schema, _MOST_LEVELS))


class ToolSet:
    """The tools by name. Iterates over the tools in the request's order."""

    def __init__(self, tools: Sequence[Tool] = ()) -> None:
        self._by_name = {tool.name: tool for tool in tools}

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def get(self, name: str) -> Tool:
        """The tool of that name, or one of which nothing else is known."""
        return self._by_name.get(name) or Tool(name)


def _types(schema: object, levels: int) -> set[str]:
    if not isinstance(schema, Mapping) or not levels:
        return set()
    stated = schema.get("type")
    if isinstance(stated, str):
        return {stated}
    if isinstance(stated, Sequence):
        return {name for name in stated if isinstance(name, str)}
    if "const" in schema:
        return {_TYPE_OF.get(type(schema["const"]), "object")}
    values = schema.get("enum")
    if isinstance(values, Sequence) and not isinstance(values, str):
        return {_TYPE_OF.get(type(value), "object") for value in values}
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if not isinstance(alternatives, Sequence) or isinstance(alternatives, str):
        return set()
    known = [_types(alternative, levels - 1) for alternative in alternatives]
    return set().union(*known) if all(known) else set()
