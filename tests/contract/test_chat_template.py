"""A chat template of the user's own takes the place of the model's, on both engines."""

from __future__ import annotations

import pytest

from tests.contract.servers import SYSTEM, Server

QUESTION = "What is the capital of France?"


@pytest.fixture(params=["told_llama", "told_vllm"], ids=["llama.cpp", "vllm"])
def told(request: pytest.FixtureRequest) -> Server:
    """A server of the starter model with the template `ITALIAN` instead of its own."""
    server: Server = request.getfixturevalue(request.param)
    return server


def test_answers_follow_the_template(told: Server) -> None:
    whole = told.chat(QUESTION)["choices"][0]["message"]["content"]
    assert "Rome" in whole
    assert "Paris" not in whole
    asked = [{"role": "user", "content": QUESTION}]
    body = {"model": told.model, "max_tokens": 16, "messages": asked, "temperature": 0, "system": SYSTEM["content"]}
    message = told.http.post("/v1/messages", json=body).json()
    assert "Rome" in message["content"][0]["text"]


def test_a_chats_tokens_are_those_of_the_template(told: Server) -> None:
    request = {"model": told.model, "messages": [{"role": "user", "content": QUESTION}]}
    tokens = told.http.post("/tokenize", json={**request, "return_token_strs": True}).json()
    ids = {"model": told.model, "tokens": tokens["tokens"]}
    assert "What is the capital of Italy?" in told.http.post("/detokenize", json=ids).json()["content"]
    answer = told.http.post("/v1/chat/completions", json={**request, "max_tokens": 1}).json()
    assert tokens["count"] == answer["usage"]["prompt_tokens"]


def test_the_template_is_told(told: Server) -> None:
    shown = told.http.post("/api/show", json={"model": told.model}).json()
    assert "What is the capital of Italy?" in shown["template"]
