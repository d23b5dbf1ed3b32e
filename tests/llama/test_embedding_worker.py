"""Embedding and ranking workers as processes with the real engine, against the same computation in numpy."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import httpx2
import numpy as np
import pytest
from openai.types import CreateEmbeddingResponse

from tests.bert import Array, Bert, embed, hidden_states, random_bert, rank, tokens_of, write_bert
from tests.llama.conftest import NAME, WorkerProcess, running, tiny_plan
from tests.support import until
from tests.tiny_gguf import write_tiny_model

TEXTS = ("hello world", "The cat sat on the mat.", "a", "red, blue & the sky!", "Ünïcödé 日本", "sun " * 60)
CONTEXT = 128


EMBEDS = tiny_plan(context=CONTEXT, kv_cells=256, batch=256, micro_batch=256, kind="embed")


@pytest.fixture(scope="module")
def bert() -> Bert:
    return random_bert(context=CONTEXT)


@pytest.fixture(scope="module")
def embedder(bert: Bert, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with running(write_bert(tmp_path_factory.mktemp("bert") / "mean.gguf", bert), EMBEDS) as [worker]:
        yield worker


@pytest.fixture(scope="module")
def ranker(bert: Bert, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    path = tmp_path_factory.mktemp("bert") / "rank.gguf"
    with running(write_bert(path, bert, pooling=gguf.PoolingType.RANK), EMBEDS) as [worker]:
        yield worker


def post(worker: WorkerProcess, path: str, **body: Any) -> dict[str, Any]:
    response = worker.client.post(path, json={"model": "m", **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def vectors(worker: WorkerProcess, texts: Any, **fields: Any) -> Array:
    data = post(worker, "/v1/embeddings", input=texts, **fields)["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return np.array([entry["embedding"] for entry in data], dtype=np.float32)


def test_an_embedding_is_the_models_own(embedder: WorkerProcess, bert: Bert) -> None:
    expected = [embed(bert, text) for text in TEXTS]
    for vector, own in zip(vectors(embedder, list(TEXTS)), expected, strict=True):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert float(vector @ own) >= 0.9999
    # Random weights give embeddings that resemble each other little: the comparison tells them apart.
    assert max(float(expected[0] @ other) for other in expected[1:]) < 0.99


def test_the_answer_is_openais(embedder: WorkerProcess, bert: Bert) -> None:
    body = {"model": "m", "input": ["hello", "world world"], "encoding_format": "float"}
    answer = CreateEmbeddingResponse.model_validate(embedder.client.post("/v1/embeddings", json=body).json())
    assert (answer.object, answer.model, len(answer.data)) == ("list", NAME, 2)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == len(tokens_of(bert, "hello")) + 4


def test_base64_holds_the_same_numbers(embedder: WorkerProcess) -> None:
    (entry,) = post(embedder, "/v1/embeddings", input="hello", encoding_format="base64")["data"]
    numbers = np.frombuffer(base64.b64decode(entry["embedding"]), dtype="<f4")
    assert numbers.tolist() == vectors(embedder, "hello")[0].tolist()


def test_token_ids_are_taken_as_they_are(embedder: WorkerProcess, bert: Bert) -> None:
    tokens = tokens_of(bert, "hello world")
    by_text = vectors(embedder, "hello world")
    assert np.allclose(vectors(embedder, tokens), by_text, atol=1e-6)
    assert np.allclose(vectors(embedder, [tokens, tokens[1:-1]])[0], by_text[0], atol=1e-3)
    assert not np.allclose(vectors(embedder, tokens[1:-1]), by_text, atol=1e-3)


def test_dimensions_cut_and_scale_again(embedder: WorkerProcess) -> None:
    whole = vectors(embedder, list(TEXTS))
    cut = vectors(embedder, list(TEXTS), dimensions=8)
    assert cut.shape == (len(TEXTS), 8)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    assert np.allclose(cut, expected, atol=1e-5)


@pytest.mark.parametrize(
    "pooling", [gguf.PoolingType.CLS, gguf.PoolingType.LAST, None], ids=["cls", "last", "unstated"]
)
def test_the_file_says_how_to_pool(bert: Bert, tmp_path: Path, pooling: gguf.PoolingType | None) -> None:
    """The mean is what a file gets that says nothing, and the worker says so."""
    states = hidden_states(bert, tokens_of(bert, TEXTS[1]))
    pooled = {gguf.PoolingType.CLS: states[0], gguf.PoolingType.LAST: states[-1], None: states.mean(axis=0)}[pooling]
    with running(write_bert(tmp_path / "model.gguf", bert, pooling=pooling), EMBEDS) as [worker]:
        vector = vectors(worker, TEXTS[1])[0]
    assert ("names no pooling" in worker.last_words) is (pooling is None)
    assert float(vector @ pooled) / np.linalg.norm(pooled) >= 0.9999


def test_a_burst_of_single_texts_is_merged_and_each_gets_its_own(embedder: WorkerProcess, bert: Bert) -> None:
    texts = [f"{number} hello {number * 7} world" for number in range(200)]

    async def burst() -> list[httpx2.Response]:
        transport = httpx2.AsyncHTTPTransport(uds=str(embedder.socket))
        limits = httpx2.Timeout(60)
        async with httpx2.AsyncClient(transport=transport, base_url="http://worker", timeout=limits) as client:
            requests = (client.post("/v1/embeddings", json={"model": "m", "input": text}) for text in texts)
            return list(await asyncio.gather(*requests))

    before = embedder.stats()["steps"]
    answers = asyncio.run(burst())
    assert {answer.status_code for answer in answers} == {200}
    for text, answer in zip(texts, answers, strict=True):
        vector = np.array(answer.json()["data"][0]["embedding"], dtype=np.float32)
        assert float(vector @ embed(bert, text)) >= 0.9999
    assert embedder.stats()["steps"] - before < len(texts)


@pytest.mark.parametrize(
    ("path", "body", "param", "code", "words"),
    [
        ("/v1/embeddings", {"input": "cat " * 300}, "input", "context_length_exceeded", "128 tokens .* 302"),
        ("/v1/embeddings", {"input": ["a", "cat " * 300]}, "input[1]", "context_length_exceeded", "128 tokens .* 302"),
        ("/v1/embeddings", {"input": "x" * 100_000}, "input", "context_length_exceeded", "128 tokens"),
        ("/v1/embeddings", {"input": [[3], [4] * 129]}, "input[1]", "context_length_exceeded", "128 tokens .* 129"),
        ("/v1/embeddings", {"input": [3, 1_000_000]}, "input", None, "vocabulary of 114"),
        ("/v1/embeddings", {"input": "a", "dimensions": 65}, "dimensions", None, "64 dimensions, not 65"),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}, "model", "wrong_model_kind", "embedding model"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}]},
            "model",
            "wrong_model_kind",
            "embed",
        ),
        ("/v1/completions", {"prompt": "a"}, "model", "wrong_model_kind", "embedding model .*/v1/embeddings"),
        ("/detokenize", {"tokens": [1_000_000]}, "tokens", None, "vocabulary of 114"),
    ],
)
def test_bad_input_is_a_400_that_names_the_field(
    embedder: WorkerProcess, path: str, body: dict[str, Any], param: str, code: str | None, words: str
) -> None:
    response = embedder.client.post(path, json={"model": "m", **body})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert_matches(words, error["message"])


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


def test_the_longest_text_is_embedded(embedder: WorkerProcess, bert: Bert) -> None:
    tokens = [*tokens_of(bert, "cat " * (CONTEXT - 2))]
    assert len(tokens) == CONTEXT
    hidden = hidden_states(bert, tokens).mean(axis=0)
    assert float(vectors(embedder, tokens)[0] @ hidden) / np.linalg.norm(hidden) >= 0.9999


@pytest.mark.parametrize("text", ["hello [SEP] world", "[CLS]", "[MASK][MASK]"])
def test_i11_control_tokens_in_a_text_stay_text(embedder: WorkerProcess, bert: Bert, text: str) -> None:
    tokens = post(embedder, "/tokenize", prompt=text)["tokens"]
    assert tokens == tokens_of(bert, text)
    controls = {bert.vocabulary.index(token) for token in ("[CLS]", "[SEP]", "[MASK]")}
    assert not controls & set(tokens[1:-1])


def test_tokens_come_and_go(embedder: WorkerProcess, bert: Bert) -> None:
    answer = post(embedder, "/tokenize", prompt="hello world", add_special_tokens=False)
    tokens = tokens_of(bert, "hello world")
    assert answer == {"count": 2, "max_model_len": CONTEXT, "tokens": tokens[1:-1]}
    assert post(embedder, "/tokenize", prompt="hello world")["tokens"] == tokens
    assert post(embedder, "/detokenize", tokens=tokens)["prompt"].replace(" ", "") == "[CLS]helloworld[SEP]"
    assert post(embedder, "/detokenize", tokens=tokens[1:-1])["prompt"].strip() == "hello world"
    assert post(embedder, "/detokenize", tokens=[])["prompt"] == ""


def test_a_client_that_hangs_up_leaves_nothing_to_compute(embedder: WorkerProcess) -> None:
    before = embedder.stats()["cancelled"]
    body = json.dumps({"model": "m", "input": ["cat " * 120] * 2048}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: w\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(embedder.socket))
        client.sendall(head.encode() + body)
        until(lambda: embedder.stats()["waiting"] > 0)
    until(lambda: embedder.stats()["waiting"] == embedder.stats()["running"] == 0)
    assert embedder.stats()["cancelled"] == before + 1


def test_a_decoder_embeds_each_text_as_if_it_were_alone(tmp_path: Path) -> None:
    """Its cache holds the texts of one step side by side, and those of no other step."""
    path = write_tiny_model(tmp_path / "decoder.gguf", context=CONTEXT, pooling=gguf.PoolingType.LAST)
    texts = [f"{number} hello the world" * (1 + number % 5) for number in range(80)]
    with running(path, EMBEDS) as [worker]:
        alone = np.concatenate([vectors(worker, text) for text in texts])
        together = vectors(worker, texts)
    assert np.einsum("ij,ij->i", alone, together).min() >= 0.999
    assert np.abs(alone[0] @ alone[1:].T).max() < 0.999


# --- ranking ---------------------------------------------------------------------------------------------------------


def test_documents_are_ranked_as_the_model_does(ranker: WorkerProcess, bert: Bert) -> None:
    documents = ["the sun", "blue sky and red mat", "dog", "cat cat cat"]
    query = tokens_of(bert, "hello world")
    pairs = [[*query, *tokens_of(bert, document)[1:-1]] for document in documents]
    expected = [1 / (1 + math.exp(-rank(bert, pair))) for pair in pairs]
    answer = post(ranker, "/v1/rerank", query="hello world", documents=documents)
    scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert [scores[index] for index in range(4)] == pytest.approx(expected, abs=2e-3)
    assert list(scores) == sorted(range(4), key=lambda index: -expected[index])
    assert answer["usage"]["prompt_tokens"] == sum(map(len, pairs))


def test_the_best_documents_come_with_their_texts(ranker: WorkerProcess) -> None:
    documents = [{"text": "sun"}, "sky", "mat"]
    answer = post(ranker, "/v1/rerank", query="q", documents=documents, top_n=2, return_documents=True)
    texts = ["sun", "sky", "mat"]
    assert len(answer["results"]) == 2
    assert [result["document"]["text"] for result in answer["results"]] == [
        texts[result["index"]] for result in answer["results"]
    ]


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("/v1/embeddings", {"input": "a"}, "model", "wrong_model_kind"),
        ("/v1/completions", {"prompt": "a"}, "model", "wrong_model_kind"),
        (
            "/v1/rerank",
            {"query": "cat " * 100, "documents": ["a", "dog " * 50]},
            "documents[1]",
            "context_length_exceeded",
        ),
        ("/v1/rerank", {"query": "x" * 70_000, "documents": ["a"]}, "query", "context_length_exceeded"),
    ],
)
def test_a_ranking_model_refuses_what_it_cannot_do(
    ranker: WorkerProcess, path: str, body: dict[str, Any], param: str, code: str
) -> None:
    response = ranker.client.post(path, json={"model": "m", **body})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_an_embedding_model_has_no_chats(embedder: WorkerProcess, ranker: WorkerProcess) -> None:
    for worker in (embedder, ranker):
        response = worker.client.post("/tokenize", json={"model": "m", "messages": [{"role": "user", "content": "a"}]})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "wrong_model_kind")


# --- a generating model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/embeddings", {"input": "a"}), ("/v1/rerank", {"query": "a", "documents": ["b"]})],
)
def test_a_generating_model_says_what_it_is(worker: WorkerProcess, path: str, body: dict[str, Any]) -> None:
    response = worker.client.post(path, json={"model": "m", **body})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "wrong_model_kind"
    assert "generating model" in response.json()["error"]["message"]


def test_a_generating_models_text_survives_the_round_trip(worker: WorkerProcess) -> None:
    text = "hello the world, ünïcödé\n日本 <|im_end|>"
    tokens = post(worker, "/tokenize", prompt=text)["tokens"]
    assert post(worker, "/detokenize", tokens=tokens) == {"prompt": text, "content": text}
    assert post(worker, "/tokenize", prompt="")["count"] == 0


def test_a_classifier_is_no_ranking_model(bert: Bert, tmp_path: Path) -> None:
    weights = {**bert.weights}
    for part in ("weight", "bias"):
        name = f"classifier.out_proj.{part}"
        weights[name] = np.concatenate([weights[name]] * 3)
    model = Bert(weights, bert.vocabulary, bert.heads)
    path = write_bert(tmp_path / "classes.gguf", model, pooling=gguf.PoolingType.RANK, labels=("bad", "so", "good"))
    with pytest.raises(RuntimeError, match="classifier with 3 outputs"), running(path, EMBEDS):
        pass
