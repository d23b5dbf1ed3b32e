"""The tables of the dialects in docs/api.md are those of the schemas, and no field has two decisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.dialects.document import DOCUMENTED
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
