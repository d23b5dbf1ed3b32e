"""The request and the answer of `POST /v1/embeddings`."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse

from llmserve.errors import InvalidRequest
from llmserve.openai.embeddings import EmbeddingRequest, embedding_answer
from llmserve.openai.json import dump_json
from llmserve.openai.parse import Parsed, parse_embedding

VECTORS = [(0.5, -0.25, 1e-3), (0.0, 1.0, -1.0)]


def parsed(**fields: Any) -> Parsed[EmbeddingRequest]:
    return parse_embedding(json.dumps({"model": "m", "input": "a", **fields}).encode())


def packed(vector: tuple[float, ...]) -> bytes:
    return struct.pack(f"<{len(vector)}f", *vector)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        (["a"] * 2048, ("a",) * 2048),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_inputs(stated: object, expected: object) -> None:
    request = parsed(input=stated).request
    assert request.input == expected
    assert parse_embedding(request.canonical(), strict=True).request == request


def test_other_fields() -> None:
    request = parsed(encoding_format="base64", dimensions=256, user="me", truncate=True)
    assert request.ignored_fields == ("truncate",)
    assert json.loads(request.request.canonical()) == {
        "model": "m",
        "input": ["a"],
        "encoding_format": "base64",
        "dimensions": 256,
    }
    assert (parsed().request.encoding_format, parsed().request.dimensions) == ("float", None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", None),
        *(("input", value) for value in (None, "", [], [""], [[]], ["a"] * 2049, ["a", 1], [-1], [2**31], [[1.5]], 5)),
        *(("encoding_format", value) for value in ("int8", "", 1, ["float"])),
        *(("dimensions", value) for value in (0, -1, 65_537, 2**63, 1.0, "3", True)),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_fields_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**{field: value})
    assert caught.value.param == field


def test_answer_as_numbers() -> None:
    answer = embedding_answer("m", [packed(vector) for vector in VECTORS], "float", 7)
    read = CreateEmbeddingResponse.model_validate_json(dump_json(answer), strict=True)
    assert [entry.index for entry in read.data] == [0, 1]
    assert [entry.embedding for entry in read.data] == [pytest.approx(vector, rel=1e-6) for vector in VECTORS]
    assert (read.object, read.model, read.data[0].object) == ("list", "m", "embedding")
    assert (read.usage.prompt_tokens, read.usage.total_tokens) == (7, 7)


def test_answer_as_base64() -> None:
    answer = embedding_answer("m", [packed(vector) for vector in VECTORS], "base64", 7)
    assert [base64.b64decode(entry["embedding"]) for entry in answer["data"]] == [packed(vector) for vector in VECTORS]
