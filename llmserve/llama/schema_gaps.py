"""Where llguidance (1.9) follows a JSON schema less strictly than it reads: made up for, or refused.

Found by comparing what it accepts with what the words of the schema allow; the corpus of tests repeats that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

JsonSchema = Mapping[str, Any]

# Below these every key is a name that the schema's author chose.
_NAMES_BELOW = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES = frozenset({"enum", "const", "default", "examples"})
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})

# Its dates have a 29th of February every year, and a year 0000. A pattern beside a format narrows it.
_YEAR = "(?:[1-9]\\d{3}|0[1-9]\\d{2}|00[1-9]\\d|000[1-9])"
_LEAP_YEAR = "(?:\\d{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][48]|[2468]0|[13579][26])00)"
_REAL_DATE = f"^(?:{_YEAR}-(?:(?:0[13-9]|1[0-2])-\\d{{2}}|02-(?:[01]\\d|2[0-8]))|{_LEAP_YEAR}-02-29)"
_DATED = re.compile("date|date-time")
# They say what a string is for and nothing of how it is written: OpenAPI's, and those of pydantic's types. llguidance
# refuses every format it does not know.
_FREE_FORMATS = frozenset({"binary", "password", "path", "file-path", "directory-path"})


def subschemas(value: Any, pointer: str = "") -> Iterator[tuple[str, JsonSchema]]:
    """Every object that is a schema in `value`, outer ones first, with its JSON pointer."""
    if isinstance(value, Mapping):
        yield pointer, value
        for key, child in value.items():
            if key in _NAMES_BELOW and isinstance(child, Mapping):
                for name, item in child.items():
                    yield from subschemas(item, f"{pointer}/{key}/{name}")
            elif key not in _VALUES:
                yield from subschemas(child, f"{pointer}/{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from subschemas(item, f"{pointer}/{index}")


def unenforceable(schema: JsonSchema) -> str | None:
    """A sentence that names the keyword that would be followed too loosely; None where there is none."""
    found = [subschema for _, subschema in subschemas(schema)]
    for subschema in found:
        least = subschema.get("minProperties", 0)
        if _is_number(least) and least > len(set(subschema.get("required", ()))) + 1:
            return "minProperties is more than one above the required properties, and names may be given twice"
        if subschema.get("format") == "unknown":
            return "Unknown format: unknown"
    # Conjunctions bring bounds of several places together.
    merged = any("allOf" in subschema or ("$ref" in subschema and _BOUNDS & subschema.keys()) for subschema in found)
    for group in [found] if merged else [[subschema] for subschema in found]:
        problem = _loose_bound(group)
        if problem is not None:
            return problem
    return None


def strengthened(value: Any, *, names: bool = False) -> Any:
    """The schema with patterns beside the formats that need them, and without those that ask for nothing.

    `names`: the keys of `value` are an author's.
    """
    if isinstance(value, list):
        return [strengthened(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    result = {
        key: item if key in _VALUES and not names else strengthened(item, names=key in _NAMES_BELOW and not names)
        for key, item in value.items()
    }
    form = value.get("format")
    if names or not isinstance(form, str):
        return result
    if _DATED.fullmatch(form):
        result["allOf"] = [*result.get("allOf", ()), {"pattern": _REAL_DATE}]
    elif form in _FREE_FORMATS:
        del result["format"]
    return result


def _loose_bound(group: Sequence[JsonSchema]) -> str | None:
    """Of a number, an excluded whole bound is allowed where the other bound is less than one away from it."""
    numbers = [subschema for subschema in group if subschema.get("type") != "integer"]
    for excluded, opposite, direction in (("exclusiveMinimum", "aximum", 1), ("exclusiveMaximum", "inimum", -1)):
        wholes = [bound for bound in _bounds(numbers, excluded) if bound == int(bound)]
        others = _bounds(numbers, f"m{opposite}") + _bounds(numbers, f"exclusiveM{opposite}")
        if any(0 < (other - whole) * direction < 1 for whole in wholes for other in others):
            return f"{excluded} is less than one away from the other bound, where it would not be excluded"
    return None


def _bounds(group: Sequence[JsonSchema], keyword: str) -> list[float]:
    return [subschema[keyword] for subschema in group if _is_number(subschema.get(keyword))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
