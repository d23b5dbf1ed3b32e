"""The JSON schema in `format`, read as Ollama reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# The places of subschemas: by name, in a list, and alone.
_BY_NAME = ("properties", "$defs", "definitions")
_IN_LIST = ("anyOf", "oneOf", "prefixItems")
_ALONE = ("items",)
# Beside these an object's properties are not all that it may have.
_COMBINING = frozenset(
    {"$ref", "allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "dependentSchemas", "unevaluatedProperties"}
)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` whose objects have the properties that they name and no others, unless they say that there may be.

    Ollama's grammars are so, and clients that send what pydantic writes rely on it: small models would go on inventing
    properties. A schema that puts objects together from parts stays as it is.
    """
    return schema if any(_is_composed(part) for part in _parts(schema)) else _closed(schema)


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and all in it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword in _BY_NAME:
        if isinstance(named := schema.get(keyword), dict):
            for part in named.values():
                yield from _parts(part)
    for keyword in _IN_LIST:
        if isinstance(listed := schema.get(keyword), list):
            for part in listed:
                yield from _parts(part)
    for keyword in _ALONE:
        yield from _parts(schema.get(keyword))


def _is_composed(schema: Mapping[str, Any]) -> bool:
    return "allOf" in schema or ("properties" in schema and not _COMBINING.isdisjoint(schema))


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    changed = dict(schema)
    for keyword in _BY_NAME:
        if isinstance(named := schema.get(keyword), dict):
            changed[keyword] = {name: _closed(part) for name, part in named.items()}
    for keyword in _IN_LIST:
        if isinstance(listed := schema.get(keyword), list):
            changed[keyword] = [_closed(part) for part in listed]
    for keyword in _ALONE:
        if keyword in schema:
            changed[keyword] = _closed(schema[keyword])
    properties, required = schema.get("properties"), schema.get("required", [])
    # What is required but not named could not be given at all.
    if isinstance(properties, dict) and isinstance(required, list) and all(name in properties for name in required):
        changed.setdefault("additionalProperties", False)
    return changed
