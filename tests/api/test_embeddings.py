"""Embeddings, reranking and tokens through the gateway: what the worker gets, and what the client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.api.fakes import Served, Worker
from tests.fake_worker import COMPUTED

BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": "tiny", "input": ["one", "two"], "encoding_format": "base64", "dimensions": 8},
    "/v1/rerank": {"model": "tiny", "query": "what", "documents": ["one", "two"], "top_n": 1},
    "/tokenize": {"model": "tiny", "prompt": "one", "add_special_tokens": False},
    "/detokenize": {"model": "tiny", "tokens": [1, 2]},
}
KINDS = {"/v1/embeddings": "embed", "/v1/rerank": "embed", "/tokenize": None, "/detokenize": None}


@pytest.fixture
def client(open_gateway: Served) -> Iterator[httpx2.Client]:
    with open_gateway.client() as client:
        yield client


@pytest.mark.parametrize("path", BODIES)
def test_the_known_fields_reach_the_worker_and_its_answer_the_client(
    client: httpx2.Client, open_gateway: Served, worker: Worker, path: str
) -> None:
    answer = client.post(path, json={**BODIES[path], "unheard_of": 1})
    assert (answer.status_code, answer.json()) == (200, COMPUTED)
    assert answer.headers["x-llmserve-ignored-fields"] == "unheard_of"
    assert worker.seen(answer.headers["x-request-id"]) == [BODIES[path]]
    demand = open_gateway.fleet.demands[-1]
    assert (demand.kind, demand.computes) == (KINDS[path], "tokenize" not in path)
    assert not open_gateway.fleet.leases


def test_rerank_answers_without_the_version_too(client: httpx2.Client, worker: Worker) -> None:
    answer = client.post("/rerank", json=BODIES["/v1/rerank"])
    assert answer.json() == COMPUTED
    assert worker.seen(answer.headers["x-request-id"]) == [BODIES["/v1/rerank"]]


@pytest.mark.parametrize(("path", "kind"), [("/v1/chat/completions", "generate"), ("/v1/completions", "generate")])
def test_text_is_asked_of_generating_models(client: httpx2.Client, open_gateway: Served, path: str, kind: str) -> None:
    body = {"model": "tiny", "prompt": "x"} if path == "/v1/completions" else {"model": "tiny", "messages": [MESSAGE]}
    assert client.post(path, json=body).status_code == 200
    assert open_gateway.fleet.demands[-1].kind == kind


MESSAGE = {"role": "user", "content": "x"}


def test_a_chat_to_tokenize_is_for_generating_models(client: httpx2.Client, open_gateway: Served) -> None:
    body = {"model": "tiny", "messages": [MESSAGE], "add_generation_prompt": False}
    answer = client.post("/tokenize", json=body)
    assert answer.json() == COMPUTED
    assert open_gateway.worker.seen(answer.headers["x-request-id"]) == [body]
    assert open_gateway.fleet.demands[-1].kind == "generate"


@pytest.mark.parametrize(
    ("path", "changes", "param"),
    [
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": None}, "input"),
        ("/v1/embeddings", {"input": [["a"]]}, "input"),
        ("/v1/embeddings", {"dimensions": 0}, "dimensions"),
        ("/v1/embeddings", {"encoding_format": "hex"}, "encoding_format"),
        ("/v1/rerank", {"documents": []}, "documents"),
        ("/rerank", {"query": ""}, "query"),
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/tokenize", {"messages": [MESSAGE]}, "prompt"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
    ],
)
def test_a_bad_body_is_a_400_that_reaches_no_worker(
    client: httpx2.Client, open_gateway: Served, path: str, changes: dict[str, Any], param: str
) -> None:
    asked = len(open_gateway.fleet.asked)
    answer = client.post(path, json={**BODIES[path if path in BODIES else f"/v1{path}"], **changes})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert len(open_gateway.fleet.asked) == asked


def test_tokens_of_embeddings_are_counted(client: httpx2.Client) -> None:
    def counted() -> float:
        lines = client.get("/metrics").text.splitlines()
        name = 'llmserve_tokens_total{kind="prompt",model="tiny:1m"}'
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = counted()
    client.post("/v1/embeddings", json=BODIES["/v1/embeddings"])
    assert counted() - before == COMPUTED["usage"]["prompt_tokens"]  # type: ignore[index]
