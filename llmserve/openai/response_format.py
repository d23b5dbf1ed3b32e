"""The form a request may prescribe for its answer."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, StrictStr, model_validator

from llmserve.openai.json import dump_json, nesting_depth
from llmserve.openai.schema import Schema, refuse

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32


def _bounded_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if nesting_depth(schema) > MAX_SCHEMA_DEPTH:
        refuse(f"must be nested at most {MAX_SCHEMA_DEPTH} deep")
    if len(dump_json(schema)) > MAX_SCHEMA_BYTES:
        refuse(f"must be at most {MAX_SCHEMA_BYTES // 1024} KiB of JSON")
    return schema


class JsonSchema(Schema):
    """A JSON schema the answer must follow; `definition` (`schema` in a request) is bounded but not yet compiled."""

    place: ClassVar[str] = "response_format.json_schema."

    name: Annotated[StrictStr, Field(min_length=1, max_length=64)]
    definition: Annotated[dict[str, Any], AfterValidator(_bounded_schema)] = Field(alias="schema")
    strict: StrictBool = False
    description: Annotated[StrictStr, Field(max_length=4096)] | None = None


class ResponseFormat(Schema):
    place: ClassVar[str] = "response_format."

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema_belongs(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            refuse("is required with the type `json_schema`", "json_schema")
        if self.type != "json_schema" and self.json_schema is not None:
            refuse("belongs to the type `json_schema`", "json_schema")
        return self
