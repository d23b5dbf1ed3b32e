"""The tables of the dialects in docs/api.md are those of the schemas, and no field has two decisions."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai.types.responses import (
    FunctionToolParam,
    ResponseFunctionToolCallParam,
    ResponseOutputMessageParam,
    ResponseReasoningItemParam,
    ResponseTextConfigParam,
)
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from openai.types.responses.response_input_item_param import FunctionCallOutput
from openai.types.shared_params import Reasoning as ReasoningParam

from llmserve.dialects.document import DOCUMENTED
from llmserve.dialects.responses.items import InputItem
from llmserve.dialects.responses.requests import Reasoning, ResponsesRequest, ResponsesTool, TextConfig
from llmserve.openai.document import field_table, update
from llmserve.openai.schema import Schema

API_PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_document_is_up_to_date() -> None:
    document = API_PAGE.read_text(encoding="utf-8")
    assert update(document, DOCUMENTED) == document, "run: python -m llmserve.dialects.document docs/api.md"


@pytest.mark.parametrize("schema", DOCUMENTED, ids=lambda schema: schema.__name__)
def test_every_field_has_one_decision_and_a_row(schema: type[Schema]) -> None:
    assert schema.known & schema.policy.keys() == set()
    assert schema.extensions <= schema.model_fields.keys()
    document = API_PAGE.read_text(encoding="utf-8")
    for row in field_table(schema):
        assert row.note.endswith(".")
        assert "|" not in row.field + row.note
        assert f"| {row.field} | {row.treatment} | {row.note} |" in document or schema.__name__ == "CountTokensRequest"


@pytest.mark.parametrize(
    ("schema", "published"),
    [
        (ResponsesRequest, ResponseCreateParamsStreaming),
        (ResponsesTool, FunctionToolParam),
        (Reasoning, ReasoningParam),
        (TextConfig, ResponseTextConfigParam),
        (InputItem, ResponseFunctionToolCallParam),
        (InputItem, FunctionCallOutput),
        (InputItem, ResponseReasoningItemParam),
        (InputItem, ResponseOutputMessageParam),
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_field_that_openai_publishes_has_a_decision(schema: type[Schema], published: type) -> None:
    fields = set(published.__annotations__)
    assert fields, "the client library no longer states its fields this way"
    assert fields - schema.known - schema.policy.keys() == set()
