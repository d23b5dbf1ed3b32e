"""A JSON schema inside a request: bounded, but not yet compiled."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator

from llmserve.openai.json import dump_json, nesting_depth
from llmserve.openai.schema import refuse

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
SCHEMA_BOUNDS = f"at most {MAX_SCHEMA_BYTES // 1024} KiB and {MAX_SCHEMA_DEPTH} levels"


def bounded_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` itself, where its size and depth are within bounds; refused otherwise."""
    if nesting_depth(schema) > MAX_SCHEMA_DEPTH:
        refuse(f"must be nested at most {MAX_SCHEMA_DEPTH} deep")
    if len(dump_json(schema)) > MAX_SCHEMA_BYTES:
        refuse(f"must be at most {MAX_SCHEMA_BYTES // 1024} KiB of JSON")
    return schema


BoundedSchema = Annotated[dict[str, Any], AfterValidator(bounded_schema)]
