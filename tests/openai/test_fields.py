"""Every field OpenAI publishes has a decision, no field has two, and the document says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai.types import completion_create_params as completion_params
from openai.types import embedding_create_params as embedding_params
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import completion_create_params as chat_params
from openai.types.shared_params import FunctionDefinition as PublishedFunction

from llmserve.openai.document import DOCUMENTED, field_table, update
from llmserve.openai.embeddings import EmbeddingRequest
from llmserve.openai.messages import Message
from llmserve.openai.requests import ChatRequest, CompletionRequest, StreamOptions
from llmserve.openai.schema import Schema
from llmserve.openai.structured_outputs import StructuredOutputs
from llmserve.openai.tools import FunctionDefinition, FunctionTool

API_PAGE = Path(__file__).parents[2] / "docs" / "api.md"

PUBLISHED: list[tuple[type[Schema], type]] = [
    (ChatRequest, chat_params.CompletionCreateParamsStreaming),
    (ChatRequest, chat_params.CompletionCreateParamsNonStreaming),
    (CompletionRequest, completion_params.CompletionCreateParamsStreaming),
    (CompletionRequest, completion_params.CompletionCreateParamsNonStreaming),
    (EmbeddingRequest, embedding_params.EmbeddingCreateParams),
    (StreamOptions, ChatCompletionStreamOptionsParam),
    (FunctionTool, ChatCompletionFunctionToolParam),
    (FunctionDefinition, PublishedFunction),
    (Message, ChatCompletionSystemMessageParam),
    (Message, ChatCompletionDeveloperMessageParam),
    (Message, ChatCompletionUserMessageParam),
    (Message, ChatCompletionAssistantMessageParam),
    (Message, ChatCompletionToolMessageParam),
]


@pytest.mark.parametrize(("schema", "published"), PUBLISHED, ids=lambda kind: kind.__name__)
def test_every_published_field_has_a_decision(schema: type[Schema], published: type) -> None:
    fields = set(published.__annotations__)
    assert fields, "the client library no longer states its fields this way"
    assert fields - schema.known - schema.policy.keys() == set()


@pytest.mark.parametrize("schema", [*DOCUMENTED, StreamOptions, StructuredOutputs])
def test_no_field_has_two_decisions(schema: type[Schema]) -> None:
    assert schema.known & schema.policy.keys() == set()


@pytest.mark.parametrize(("schema", "published"), PUBLISHED[::2][:2], ids=lambda kind: kind.__name__)
def test_extensions_are_not_fields_of_openai(schema: type[Schema], published: type) -> None:
    extensions = {name for field in schema.extensions for name in schema.spellings(field)}
    assert schema.extensions <= schema.model_fields.keys()
    assert extensions & set(published.__annotations__) == set()


@pytest.mark.parametrize("schema", DOCUMENTED)
def test_every_row_says_something(schema: type[Schema]) -> None:
    rows = field_table(schema)
    assert len(rows) == len(schema.model_fields) + len(schema.policy)
    for row in rows:
        assert row.note.endswith("."), row.field
        assert "|" not in row.field + row.note


def test_document_is_up_to_date() -> None:
    document = API_PAGE.read_text(encoding="utf-8")
    assert update(document) == document, "run: python -m llmserve.openai.document docs/api.md"
    for schema in DOCUMENTED:
        for row in field_table(schema):
            assert f"| {row.field} | {row.treatment} | {row.note} |" in document


def test_document_is_written_where_the_comments_are() -> None:
    page = "a\n<!-- fields of Message: written by llmserve.openai.document -->\nold\n<!-- end -->\nb\n"
    updated = update(page)
    assert updated.startswith("a\n<!-- fields of Message")
    assert updated.endswith("|\n<!-- end -->\nb\n")
    assert "old" not in updated
    assert update(updated) == updated
