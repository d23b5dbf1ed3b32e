"""The starter model with adapters, through `llmserve serve`: one worker, and everybody's text is their own."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmserve.store.adoption import adopt
from llmserve.store.catalog import Catalog
from llmserve.store.copies import create
from llmserve.store.store import Store
from tests.llama.ties import NEAR_TIE, assert_same_but_for_ties, lead_at_parting
from tests.test_end_to_end import MODEL, ServedModel
from tests.tiny_gguf import write_adapter

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

# Widths of SmolLM2-135M: of its embeddings, and of its three heads of values.
WIDTH, VALUES, LAYERS = 576, 192, 30
NAMES = ("polite", "terse")
DESCRIBED = """
base = "starter:local"

[[adapters]]
name = "polite"
file = "polite.gguf"

[[adapters]]
name = "terse"
file = "terse.gguf"
scale = 0.5
"""
ASKED = ("support:v1", "support:v1@polite", "support:v1@terse")
PROMPT = "The three largest cities of Europe are"


@pytest.fixture(scope="module")
def home(starter_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the starter model, one made of it with named adapters, and one each with a single one as ever."""
    folder = tmp_path_factory.mktemp("adapters")
    store = Store(folder / "home", catalog=Catalog())
    weights = folder / "starter.gguf"
    shutil.copy(Store(starter_home).find(MODEL).path, weights)
    assert adopt(store, weights).name == "starter:local"
    for seed, name in enumerate(NAMES, 1):
        shapes = {f"blk.{layer}.attn_q": (WIDTH, WIDTH) for layer in range(LAYERS)}
        shapes |= {f"blk.{layer}.attn_v": (WIDTH, VALUES) for layer in range(LAYERS)}
        write_adapter(folder / f"{name}.gguf", shapes, seed=seed, rank=8, size=0.06)
    for name, text in {
        "support:v1": DESCRIBED,
        "polite:v1": "base = 'starter:local'\nadapters = ['polite.gguf']\n",
        "terse:v1": "base = 'starter:local'\nadapters = [{ file = 'terse.gguf', scale = 0.5 }]\n",
    }.items():
        file = folder / "model.toml"
        file.write_text(text)
        create(store, name, file)
    return store.home


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[ServedModel]:
    server = ServedModel(home)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def client(served: ServedModel) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://127.0.0.1:{served.port}", trust_env=False, timeout=120) as client:
        yield client


def scores(client: httpx2.Client, model: str) -> dict[str, Any]:
    body = {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": 32, "logprobs": 2, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["choices"][0]["logprobs"]
    return found


@pytest.fixture(scope="module")
def alone(client: httpx2.Client) -> dict[str, dict[str, Any]]:
    """What models write that have no adapter, or a single one that is always on."""
    models = ("starter:local", "polite:v1", "terse:v1")
    found = {asked: scores(client, model) for asked, model in zip(ASKED, models, strict=True)}
    for model in models:
        assert client.post("/admin/stop", json={"model": model}).json()["stopped"]
    for one, other in itertools.combinations(found.values(), 2):
        assert lead_at_parting(one, other) > 10 * NEAR_TIE, "each writes something else, and not for a tie"
    return found


def test_each_text_is_what_it_is_alone_and_one_worker_writes_them_all(
    served: ServedModel, client: httpx2.Client, alone: dict[str, dict[str, Any]]
) -> None:
    for asked in ASKED:
        assert_same_but_for_ties(scores(client, asked), alone[asked])
    # Of each adapter once: where several rows are multiplied with one, it rounds otherwise, in a worker of its own too,
    # and this model's kernels make of that up to 0.2 in a log probability.
    together = (*ASKED, "support:v1", "support:v1")
    with ThreadPoolExecutor(len(together)) as pool:
        answers = list(pool.map(lambda asked: scores(client, asked), together))
    for asked, answer in zip(together, answers, strict=True):
        assert_same_but_for_ties(answer, alone[asked])
    assert len(served.workers()) == 1
    (loaded,) = client.get("/admin/ps").json()["models"]
    assert (loaded["name"], loaded["state"]) == ("support:v1", "ready")


def test_metrics_count_the_model_whatever_its_adapter(client: httpx2.Client) -> None:
    scores(client, "support:v1@polite")
    text = client.get("/metrics").text
    assert 'model="support:v1"' in text
    assert "@" not in text


def test_they_are_listed_and_found_in_every_dialect(client: httpx2.Client) -> None:
    listed = {entry["id"]: entry.get("parent") for entry in client.get("/v1/models").json()["data"]}
    assert {name: parent for name, parent in listed.items() if name.startswith("support")} == {
        "support:v1": None,
        "support:v1@polite": "support:v1",
        "support:v1@terse": "support:v1",
    }
    assert client.get("/v1/models/support:v1@polite").json()["id"] == "support:v1@polite"
    tags = [model["name"] for model in client.get("/api/tags").json()["models"]]
    assert {*ASKED} <= {*tags}
    version = {"anthropic-version": "2023-06-01"}
    page = client.get("/v1/models", headers=version).json()
    assert {*ASKED} <= {model["id"] for model in page["data"]}
    assert client.get("/v1/models/support:v1@terse", headers=version).json()["id"] == "support:v1@terse"


def test_every_dialect_asks_for_one_by_the_models_name(client: httpx2.Client) -> None:
    model, messages = "support:v1@polite", [{"role": "user", "content": "Name a city."}]
    chat = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 12}
    answer = client.post("/v1/chat/completions", json=chat).json()
    text = answer["choices"][0]["message"]["content"]
    assert answer["model"] == model
    base = client.post("/v1/chat/completions", json={**chat, "model": "support:v1"}).json()
    assert base["choices"][0]["message"]["content"] != text
    ollama = {"model": model, "messages": messages, "stream": False, "options": {"temperature": 0, "num_predict": 12}}
    assert client.post("/api/chat", json=ollama).json()["message"]["content"] == text
    anthropic = client.post("/v1/messages", json=chat, headers={"anthropic-version": "2023-06-01"}).json()
    assert anthropic["content"][0]["text"] == text
    tokens = [
        client.post("/tokenize", json={"model": name, "prompt": "Hello"}).json() for name in (model, "support:v1")
    ]
    assert tokens[0]["tokens"] == tokens[1]["tokens"] != []
    response = {"model": model, "input": messages, "temperature": 0, "max_output_tokens": 12}
    output = client.post("/v1/responses", json=response).json()["output"]
    assert output[0]["content"][0]["text"] == text


def test_an_unknown_adapter_is_not_found_in_every_dialect(client: httpx2.Client) -> None:
    model, messages = "support:v1@rude", [{"role": "user", "content": "Hello"}]
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": messages},
        "/v1/completions": {"prompt": "Hello"},
        "/v1/messages": {"messages": messages, "max_tokens": 1},
        "/v1/responses": {"input": "Hello"},
        "/api/chat": {"messages": messages},
        "/api/show": {},
        "/admin/load": {},
    }
    for path, body in asked.items():
        answer = client.post(path, json={"model": model, **body})
        assert answer.status_code == 404, path
        assert "`support:v1@polite`, `support:v1@terse`" in json.dumps(answer.json()), path
    streamed = {"model": model, "messages": messages, "stream": True}
    assert client.post("/v1/chat/completions", json=streamed).status_code == 404
    error = client.get("/v1/models/support:v1@rude").json()["error"]
    assert error["code"] == "model_not_found"


def test_the_plan_has_room_for_them(client: httpx2.Client) -> None:
    def weights(model: str) -> int:
        plan = client.get("/admin/plan", params={"model": model}).json()["plan"]
        return sum(int(memory["weights"]) for memory in plan["memory"])

    file_bytes = 4 * 8 * LAYERS * (WIDTH + WIDTH + WIDTH + VALUES)
    assert weights("support:v1") - weights("starter:local") == 2 * file_bytes
    assert weights("support:v1@polite") == weights("support:v1")
