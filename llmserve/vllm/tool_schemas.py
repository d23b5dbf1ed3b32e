"""Which schemas of functions vLLM enforces where a call is demanded.

By itself it enforces a call's arguments only where the function is `strict`, and otherwise takes any JSON value: a
small model then writes a string in the place of an object. A schema that its grammars cannot follow would be a refusal,
so only those are enforced whose keywords all of them know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Beside them a schema may say what it likes: it is told to the model and not enforced.
_PLAIN = frozenset(
    {
        *("type", "enum", "const", "required", "title", "description", "default", "examples", "$schema"),
        *("minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "additionalProperties"),
    }
)


def enforced(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tool as one whose arguments follow its schema, where that is possible."""
    function = tool["function"]
    if function.get("strict") or not _is_plain(function.get("parameters")):
        return tool
    return {**tool, "function": {**function, "strict": True}}


def _is_plain(schema: object) -> bool:
    """Whether every grammar can follow it."""
    if not isinstance(schema, dict):
        return isinstance(schema, bool)
    for keyword, value in schema.items():
        match keyword:
            case "properties":
                if not all(map(_is_plain, value.values())):
                    return False
            case "items":
                if not _is_plain(value):
                    return False
            case "anyOf":
                if not all(map(_is_plain, value)):
                    return False
            case _ if keyword not in _PLAIN:
                return False
    # Of another form it is a schema too.
    return _is_plain(schema.get("additionalProperties", True))
