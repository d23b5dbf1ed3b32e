"""The request and the answer of `POST /v1/rerank`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.errors import InvalidRequest
from llmserve.openai.parse import Parsed, parse_rerank
from llmserve.openai.rerank import RerankRequest, rerank_answer

DOCUMENTS = ["low", {"text": "high"}, "middle"]
SCORES = [0.1, 0.9, 0.5]


def parsed(**fields: Any) -> Parsed[RerankRequest]:
    return parse_rerank(json.dumps({"model": "m", "query": "q", "documents": DOCUMENTS, **fields}).encode())


def test_documents_become_texts() -> None:
    request = parsed(top_n=2, return_documents=True).request
    assert request.documents == ("low", "high", "middle")
    assert json.loads(request.canonical())["documents"] == ["low", "high", "middle"]
    assert parse_rerank(request.canonical(), strict=True).request == request
    assert parsed(documents=[{"text": "a", "image": "b"}], foo=1).ignored_fields == ("foo", "documents[].image")


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("model", None, "model"),
        ("query", None, "query"),
        ("query", "", "query"),
        ("query", 1, "query"),
        ("documents", None, "documents"),
        ("documents", [], "documents"),
        ("documents", "a", "documents"),
        ("documents", {}, "documents"),
        ("documents", ["a"] * 2049, "documents"),
        ("documents", ["a", 1], "documents[1]"),
        ("documents", ["a", {}], "documents[1]"),
        ("documents", [{"text": 1}], "documents[0]"),
        ("top_n", 0, "top_n"),
        ("top_n", 1.0, "top_n"),
        ("return_documents", "yes", "return_documents"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_fields_refused(field: str, value: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**{field: value})
    assert caught.value.param == param


@pytest.mark.parametrize(("top_n", "order"), [(None, [1, 2, 0]), (2, [1, 2]), (10, [1, 2, 0])])
def test_the_best_documents_come_first(top_n: int | None, order: list[int]) -> None:
    answer = rerank_answer(parsed(top_n=top_n).request, "m", SCORES, 12)
    assert answer == {
        "object": "list",
        "model": "m",
        "results": [{"index": index, "relevance_score": SCORES[index]} for index in order],
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
    }


def test_equal_scores_keep_the_order_of_the_documents() -> None:
    answer = rerank_answer(parsed().request, "m", [0.5, 0.5, 0.5], 1)
    assert [result["index"] for result in answer["results"]] == [0, 1, 2]


def test_documents_are_repeated_when_asked_for() -> None:
    answer = rerank_answer(parsed(return_documents=True, top_n=1).request, "m", SCORES, 1)
    assert answer["results"] == [{"index": 1, "relevance_score": 0.9, "document": {"text": "high"}}]
