"""The requests and answers of `POST /tokenize` and `POST /detokenize`, under both servers' names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve.errors import InvalidRequest, UnsupportedParameter
from llmserve.openai.parse import parse_chat, parse_detokenize, parse_tokenize
from llmserve.openai.tokens import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeRequest,
    detokenize_answer,
    tokenize_answer,
)

HELLO = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "now"}}


def tokenize(**fields: Any) -> TokenizeRequest:
    request = parse_tokenize(json.dumps({"model": "m", **fields}).encode()).request
    assert isinstance(request, TokenizeRequest)
    return request


def tokenize_chat(**fields: Any) -> TokenizeChatRequest:
    request = parse_tokenize(json.dumps({"model": "m", "messages": [HELLO], **fields}).encode()).request
    assert isinstance(request, TokenizeChatRequest)
    return request


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


@pytest.mark.parametrize("form", [{"prompt": "a"}, {"messages": [HELLO]}], ids=["text", "chat"])
@pytest.mark.parametrize("field", ["parse_special", "with_pieces"])
def test_other_ways_to_tokenize_are_not_supported(form: dict[str, Any], field: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        parse_tokenize(json.dumps({"model": "m", **form, field: True}).encode())
    assert caught.value.param == field


@pytest.mark.parametrize(
    "fields",
    [
        {"add_generation_prompt": False},
        {"tools": [TOOL], "tool_choice": "none", "return_token_strs": True},
        {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "none"},
        {"documents": [{"text": "a"}]},
        {"messages": [HELLO, {"role": "assistant", "content": "The"}], "continue_final_message": True},
    ],
    ids=repr,
)
def test_a_chat_to_tokenize_survives_the_way_to_the_worker(fields: dict[str, Any]) -> None:
    request = tokenize_chat(**fields)
    assert json.loads(request.canonical()).keys() == {"model", "messages", *fields}
    assert parse_tokenize(request.canonical(), strict=True).request == request


def test_a_chat_has_its_special_tokens_whatever_is_asked() -> None:
    assert tokenize_chat(add_special_tokens=True) == tokenize_chat()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"prompt": "a"}, "prompt"),
        ({"content": "a"}, "content"),
        ({"chat_template": "x"}, "chat_template"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"return_token_strs": 1}, "return_token_strs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ],
    ids=repr,
)
def test_a_chat_to_tokenize_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokenize_chat(**fields)
    assert caught.value.param == param


def test_of_a_chat_request_the_prompt_is_what_counts() -> None:
    fields = {"tools": [TOOL], "tool_choice": "auto", "reasoning_effort": "low", "documents": [{"text": "a"}]}
    body = {"model": "m", "messages": [HELLO], **fields, "max_tokens": 5, "temperature": 0, "logprobs": True}
    counted = TokenizeChatRequest.of(parse_chat(json.dumps(body).encode()).request)
    assert counted == tokenize_chat(**fields)
    assert counted.canonical() == tokenize_chat(**fields).canonical()


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
    assert tokenize_answer((3,), 8, ("a",)) == {"count": 1, "max_model_len": 8, "tokens": [3], "token_strs": ["a"]}
    assert detokenize_answer("hi") == {"prompt": "hi", "content": "hi"}
