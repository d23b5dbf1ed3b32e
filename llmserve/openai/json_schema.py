"""A JSON schema inside a request: bounded and well-formed, but not yet compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from llmserve.openai.json import dump_json, nesting_depth
from llmserve.openai.schema import refuse

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
SCHEMA_BOUNDS = f"at most {MAX_SCHEMA_BYTES // 1024} KiB and {MAX_SCHEMA_DEPTH} levels"

_TYPES = frozenset({"null", "boolean", "object", "array", "number", "integer", "string"})

Path = tuple[str | int, ...]


def bounded_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` itself, where it is small and flat enough and its keywords have values of the right kind.

    Engines and templates rely on the latter: a `type` that is a number has crashed servers. What the keywords mean
    together is left to whoever compiles the schema.
    """
    if nesting_depth(schema) > MAX_SCHEMA_DEPTH:
        refuse(f"must be nested at most {MAX_SCHEMA_DEPTH} deep")
    if len(dump_json(schema)) > MAX_SCHEMA_BYTES:
        refuse(f"must be at most {MAX_SCHEMA_BYTES // 1024} KiB of JSON")
    _check_keywords(schema, ())
    return schema


BoundedSchema = Annotated[dict[str, Any], AfterValidator(bounded_schema)]


def _check_keywords(schema: object, path: Path) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        refuse("must be a schema, that is an object, true or false", *path)
    for keyword, value in schema.items():
        check = _CHECKS.get(keyword)
        if check is not None:
            check(value, (*path, keyword))


def _check_type(value: object, path: Path) -> None:
    types = value if isinstance(value, list) else [value]
    if not types or not all(isinstance(item, str) and item in _TYPES for item in types):
        refuse(f"must be a type of JSON schema or a list of them: {', '.join(sorted(_TYPES))}", *path)


def _check_string(value: object, path: Path) -> None:
    if not isinstance(value, str):
        refuse("must be a string", *path)


def _check_strings(value: object, path: Path) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        refuse("must be a list of strings", *path)


def _check_list(value: object, path: Path) -> None:
    if not isinstance(value, list) or not value:
        refuse("must be a list with at least 1 item", *path)


def _check_count(value: object, path: Path) -> None:
    if type(value) not in {int, float} or value < 0 or value % 1:  # type: ignore[operator]
        refuse("must be an integer of at least 0", *path)


def _check_number(value: object, path: Path) -> None:
    if type(value) not in {int, float}:
        refuse("must be a number", *path)


def _check_schemas_by_name(value: object, path: Path) -> None:
    if not isinstance(value, dict):
        refuse("must be an object of schemas", *path)
    for name, schema in value.items():
        _check_keywords(schema, (*path, name))


def _check_schemas(value: object, path: Path) -> None:
    if not isinstance(value, list) or not value:
        refuse("must be a list of schemas", *path)
    for index, schema in enumerate(value):
        _check_keywords(schema, (*path, index))


def _check_items(value: object, path: Path) -> None:
    # A list is what the drafts before 2020-12 call `prefixItems`.
    if isinstance(value, list):
        _check_schemas(value, path)
    else:
        _check_keywords(value, path)


_CHECKS: Mapping[str, Callable[[object, Path], None]] = {
    "type": _check_type,
    **dict.fromkeys(("pattern", "format", "$ref"), _check_string),
    "required": _check_strings,
    "enum": _check_list,
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _check_count),
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), _check_number),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _check_schemas_by_name),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _check_schemas),
    "items": _check_items,
    **dict.fromkeys(
        ("additionalProperties", "propertyNames", "contains", "not", "if", "then", "else"), _check_keywords
    ),
}
