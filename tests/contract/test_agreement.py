"""Both engines compute the same model: its greedy answers agree as far as rounding lets them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.plain_gguf import write_plain
from tests.contract.servers import SYSTEM, Server, local_subject, starter_file

PROMPTS = (
    "What is the capital of France?",
    "What is the capital of Italy?",
    "What is two plus two?",
    "Name a colour.",
    "Name the first month of the year.",
    "What is water made of?",
    "Who wrote Hamlet?",
    "What do bees make?",
    "How many days are in a week?",
    "What is the largest planet?",
    "What is the opposite of hot?",
    "Where do fish live?",
    "What do cows eat?",
    "What is ice?",
    "Which animal barks?",
    "What is the sun?",
    "Name a fruit.",
    "Name a season.",
    "What comes after Monday?",
    "What is a dictionary?",
)
_TOKENS = 8
_AGREEING = 18


@pytest.fixture
def plain_llama_server(starter_home: Path, tmp_path: Path) -> Iterator[Server]:
    """With weights as plain numbers: llama.cpp rounds what it multiplies quantized ones with, which turns near ties."""
    write_plain(starter_file(starter_home), tmp_path / "plain.gguf")
    server = Server(local_subject("llama.cpp", tmp_path, tmp_path / "plain.gguf", {}))
    yield server
    server.stop()


def first_tokens(server: Server, prompt: str) -> list[str]:
    """The tokens with which the greedy answer begins."""
    messages = [SYSTEM, {"role": "user", "content": prompt}]
    answer = server.ask("/v1/chat/completions", messages=messages, max_tokens=_TOKENS, logprobs=True).json()
    return [entry["token"] for entry in answer["choices"][0]["logprobs"]["content"]]


def test_greedy_answers_agree(
    vllm_server: Server, plain_llama_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(prompt, first_tokens(plain_llama_server, prompt), first_tokens(vllm_server, prompt)) for prompt in PROMPTS]
    with capsys.disabled():
        print(f"\n{'prompt':36}{'agree':6} llama.cpp | vLLM")
        for prompt, ours, theirs in rows:
            print(f"{prompt:36}{'yes' if ours == theirs else 'no':6} {''.join(ours)!r} | {''.join(theirs)!r}")
    assert sum(ours == theirs for _, ours, theirs in rows) >= _AGREEING
