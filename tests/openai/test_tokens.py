"""The requests and answers of `POST /tokenize` and `POST /detokenize`, under both servers' names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.errors import InvalidRequest, UnsupportedParameter
from llmserve.openai.parse import parse_detokenize, parse_tokenize
from llmserve.openai.tokens import DetokenizeRequest, TokenizeRequest, detokenize_answer, tokenize_answer


def tokenize(**fields: Any) -> TokenizeRequest:
    return parse_tokenize(json.dumps({"model": "m", **fields}).encode()).request


def detokenize(**fields: Any) -> DetokenizeRequest:
    return parse_detokenize(json.dumps({"model": "m", **fields}).encode()).request


@pytest.mark.parametrize(
    ("fields", "special"),
    [
        ({"prompt": "hi"}, True),
        ({"content": "hi"}, True),
        ({"prompt": "hi", "content": "hi"}, True),
        ({"prompt": "hi", "add_special_tokens": False}, False),
        ({"content": "hi", "add_special": False, "parse_special": False, "with_pieces": False}, False),
    ],
    ids=repr,
)
def test_tokenize(fields: dict[str, Any], special: bool) -> None:
    request = tokenize(**fields)
    assert (request.prompt, request.add_special_tokens) == ("hi", special)
    assert b"content" not in request.canonical()
    assert parse_tokenize(request.canonical(), strict=True).request == request


def test_empty_text_has_tokens_too() -> None:
    assert tokenize(prompt="").prompt == ""
    assert detokenize(tokens=[]).tokens == ()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["hi"]}, "prompt"),
        ({"prompt": "a", "content": "b"}, "content"),
        ({"prompt": "a", "add_special_tokens": "no"}, "add_special_tokens"),
        ({"prompt": "a", "add_special_tokens": True, "add_special": False}, "add_special"),
        ({"prompt": "a", "model": None}, "model"),
    ],
    ids=repr,
)
def test_tokenize_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokenize(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("field", "value"),
    [("messages", []), ("parse_special", True), ("with_pieces", True), ("return_token_strs", True)],
)
def test_other_ways_to_tokenize_are_not_supported(field: str, value: object) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        tokenize(prompt="a", **{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize("tokens", [None, "1", 1, [1.0], ["1"], [True], [-1], [2**31], [[1]], {}])
def test_detokenize_refused(tokens: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        detokenize(tokens=tokens)
    assert caught.value.param == "tokens"


def test_detokenize() -> None:
    request = detokenize(tokens=[0, 5, 2**31 - 1])
    assert request.tokens == (0, 5, 2**31 - 1)
    assert parse_detokenize(request.canonical(), strict=True).request == request


def test_answers() -> None:
    assert tokenize_answer((3, 1, 2), 4096) == {"count": 3, "max_model_len": 4096, "tokens": [3, 1, 2]}
    assert detokenize_answer("hi") == {"prompt": "hi", "content": "hi"}
