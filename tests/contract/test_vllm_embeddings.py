"""vLLM with a published embedding model: its vectors are those of the model's own weights."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.bert import embed, read_bert, tokens_of
from tests.contract.servers import Server, local_subject, vllm_environment
from tests.support import runs, until

SENTENCES = (
    "How do I reset my password?",
    "I forgot the secret word for my account.",
    "东京 is the capital of Japan",
    "It was the best of times, it was the worst of times. " * 10,
)
# It may compute in 16 bits.
_NEAR = 0.999


@pytest.fixture(scope="module")
def embedder(starter_home: Path, minilm: zipfile.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    folder = home / "minilm"
    prefix = minilm.at
    for member in minilm.root.infolist():
        if member.filename.startswith(prefix) and not member.is_dir():
            target = folder / member.filename.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(minilm.root.read(member))
    server = Server(local_subject("vllm", home, folder, vllm_environment(starter_home)))
    yield server
    server.stop()


def test_embeddings_are_the_published_models(embedder: Server, minilm: zipfile.Path) -> None:
    bert = read_bert(minilm)
    answer = embedder.openai.embeddings.create(model=embedder.model, input=list(SENTENCES))
    assert answer.usage.prompt_tokens == sum(len(tokens_of(bert, sentence)) for sentence in SENTENCES)
    for sentence, entry in zip(SENTENCES, answer.data, strict=True):
        assert float(np.array(entry.embedding, dtype=np.float32) @ embed(bert, sentence)) >= _NEAR


def test_ollamas_routes_have_the_same_vectors(embedder: Server) -> None:
    one = embedder.openai.embeddings.create(model=embedder.model, input=SENTENCES[0], encoding_format="float")
    body = {"model": embedder.model, "input": SENTENCES[0]}
    (vector,) = embedder.http.post("/api/embed", json=body).json()["embeddings"]
    older = embedder.http.post("/api/embeddings", json={"model": embedder.model, "prompt": SENTENCES[0]}).json()
    for other in (vector, older["embedding"]):
        assert float(np.array(one.data[0].embedding) @ np.array(other)) >= _NEAR


def test_what_an_embedding_model_cannot_do_is_told(embedder: Server) -> None:
    chat = embedder.ask("/v1/chat/completions", messages=[{"role": "user", "content": "Hi"}])
    assert (chat.status_code, chat.json()["error"]["code"]) == (400, "wrong_model_kind")
    long = embedder.http.post("/v1/embeddings", json={"model": embedder.model, "input": "word " * 400})
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "context is 256" in long.json()["error"]["message"]


def test_a_killed_gateway_leaves_nothing_of_it(embedder: Server) -> None:
    """The last test of that server."""
    parts = embedder.parts()
    assert len(parts) > 2
    embedder.process.kill()
    embedder.process.wait()
    until(lambda: not any(runs(process) for process in parts), seconds=3)
