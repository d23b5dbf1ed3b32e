"""The form of an answer as vLLM's `structured_outputs` states it: a schema, an expression, a choice or a grammar."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, StrictStr, model_validator

from llmserve.errors import InvalidRequest
from llmserve.openai.fields import STRUCTURED_OUTPUTS_POLICY, Policy
from llmserve.openai.json import parse_json
from llmserve.openai.json_schema import MAX_SCHEMA_BYTES, BoundedSchema
from llmserve.openai.schema import Schema, refuse

MAX_REGEX_CHARACTERS = 8 * 1024
MAX_ALTERNATIVES = 1024
MAX_ALTERNATIVE_CHARACTERS = 1024
MAX_GRAMMAR_BYTES = 64 * 1024


def _schema_or_its_text(schema: object) -> object:
    """The schema itself: clients state it as an object or as the JSON text of one."""
    if not isinstance(schema, str):
        return schema
    if len(schema) > MAX_SCHEMA_BYTES:
        refuse(f"must be at most {MAX_SCHEMA_BYTES // 1024} KiB of JSON")
    try:
        return parse_json(schema.encode())
    except InvalidRequest:
        refuse("must be an object or the JSON text of one")


def _bounded_choice(choice: tuple[str, ...]) -> tuple[str, ...]:
    if sum(map(len, choice)) > MAX_GRAMMAR_BYTES:
        refuse(f"must be at most {MAX_GRAMMAR_BYTES} characters in all")
    return choice


def _bounded_grammar(grammar: object) -> object:
    if isinstance(grammar, str) and len(grammar.encode()) > MAX_GRAMMAR_BYTES:
        refuse(f"must be at most {MAX_GRAMMAR_BYTES // 1024} KiB")
    return grammar


_Alternative = Annotated[StrictStr, Field(min_length=1, max_length=MAX_ALTERNATIVE_CHARACTERS)]


class StructuredOutputs(Schema):
    """Exactly one of four ways to say what the whole answer looks like. Bounded, but not yet compiled.

    `definition` is `json` in a request; `grammar` is GBNF or Lark text, told apart by whoever compiles it.
    """

    place: ClassVar[str] = "structured_outputs."
    policy: ClassVar[Policy] = STRUCTURED_OUTPUTS_POLICY

    definition: Annotated[BoundedSchema, BeforeValidator(_schema_or_its_text)] | None = Field(
        default=None, alias="json"
    )
    regex: Annotated[StrictStr, Field(min_length=1, max_length=MAX_REGEX_CHARACTERS)] | None = None
    choice: Annotated[
        tuple[_Alternative, ...],
        FailFast(),
        Field(min_length=1, max_length=MAX_ALTERNATIVES),
        AfterValidator(_bounded_choice),
    ] = ()
    grammar: Annotated[StrictStr, Field(min_length=1), BeforeValidator(_bounded_grammar)] | None = None

    @model_validator(mode="after")
    def _check_one_is_stated(self) -> Self:
        if len(self.model_fields_set) != 1:
            refuse("must state exactly one of `json`, `regex`, `choice` and `grammar`")
        return self
