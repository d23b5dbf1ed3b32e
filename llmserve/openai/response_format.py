"""The form a request may prescribe for its answer."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StrictBool, StrictStr, model_validator

from llmserve.openai.json_schema import BoundedSchema
from llmserve.openai.schema import Schema, refuse


class JsonSchema(Schema):
    """A JSON schema the answer must follow, `definition` (`schema` in a request)."""

    place: ClassVar[str] = "response_format.json_schema."

    name: Annotated[StrictStr, Field(min_length=1, max_length=64)]
    definition: BoundedSchema = Field(alias="schema")
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
