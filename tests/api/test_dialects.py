"""The dialects through a gateway and a worker: relayed, translated, refused and kept as each of them wants it."""

from __future__ import annotations

import json
import select
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
from starlette.routing import Match

from llmserve.api import listener
from llmserve.api.limits import Limits
from llmserve.api.ollama import greeting_route
from llmserve.api.openapi import BODIES
from llmserve.errors import LlmserveError, TooManyRequests
from llmserve.settings import Settings
from tests.api.fakes import HUB_MODEL, INFO, MODEL, Served, every_route, read_answer, wait_until
from tests.fake_worker import COMPUTED

HELLO = {"role": "user", "content": "hi"}
# How a request of each dialect asks for an answer, streamed or not.
ASK: dict[str, dict[str, Any]] = {
    "/api/chat": {"model": "tiny", "messages": [HELLO], "stream": False},
    "/api/generate": {"model": "tiny", "prompt": "hi", "stream": False},
    "/v1/messages": {"model": "tiny", "max_tokens": 50, "messages": [HELLO]},
    "/v1/responses": {"model": "tiny", "input": "hi", "store": False},
}
SAID = "Hello from the fake worker."
SAYS: dict[str, Callable[[dict[str, Any]], str]] = {
    "/api/chat": lambda answer: str(answer["message"]["content"]),
    "/api/generate": lambda answer: str(answer["response"]),
    "/v1/messages": lambda answer: str(answer["content"][0]["text"]),
    "/v1/responses": lambda answer: str(answer["output"][0]["content"][0]["text"]),
}


def scripted(path: str, **script: Any) -> dict[str, Any]:
    """The request to `path` whose worker acts as in `script`."""
    text = json.dumps(script)
    body = dict(ASK[path])
    if "messages" in body:
        return {**body, "messages": [{"role": "user", "content": text}]}
    return {**body, ("prompt" if "prompt" in body else "input"): text}


@pytest.fixture
def gateway(serve: Callable[..., Served], tmp_path: Path) -> Served:
    return serve(Settings(home=tmp_path), Limits(grace_seconds=0.05, keep_alive_seconds=0.05))


@pytest.fixture
def client(gateway: Served) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


@pytest.mark.parametrize("path", ASK)
class TestEveryDialect:
    def test_a_whole_answer(self, client: httpx2.Client, path: str) -> None:
        answer = client.post(path, json=ASK[path])
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert SAYS[path](answer.json()) == SAID

    def test_a_stream(self, client: httpx2.Client, path: str) -> None:
        answer = client.post(path, json={**ASK[path], "stream": True})
        kind = "application/x-ndjson" if path.startswith("/api/") else "text/event-stream; charset=utf-8"
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert "[DONE]" not in answer.text
        assert "fake" in answer.text

    def test_the_worker_gets_known_fields_and_a_limit(self, gateway: Served, client: httpx2.Client, path: str) -> None:
        answer = client.post(path, json={**ASK[path], "unheard_of": 1})
        assert answer.headers["x-llmserve-ignored-fields"] == "unheard_of"
        (seen,) = gateway.worker.seen(answer.headers["x-request-id"])
        assert "unheard_of" not in seen
        assert seen["max_tokens"] in {50, 4096}

    def test_an_unknown_model(self, client: httpx2.Client, path: str) -> None:
        answer = client.post(path, json={**ASK[path], "model": "nope"})
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert "nope" in (error if path.startswith("/api/") else error["message"])

    def test_a_bad_body_and_no_json(self, client: httpx2.Client, path: str) -> None:
        assert client.post(path, json={}).status_code == 400
        assert client.post(path, content=b"{", headers={"content-type": "application/json"}).status_code == 400
        form = client.post(path, content=b"a=b", headers={"content-type": "application/x-www-form-urlencoded"})
        assert form.status_code == 415
        assert "error" in form.json()

    def test_a_full_queue(self, gateway: Served, client: httpx2.Client, path: str) -> None:
        gateway.fleet.failure = TooManyRequests("the queue is full", retry_after=2)
        answer = client.post(path, json={**ASK[path], "stream": True})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
        assert "the queue is full" in answer.text

    def test_a_worker_that_refuses(self, client: httpx2.Client, path: str) -> None:
        answer = client.post(path, json=scripted(path, status=503))
        assert answer.status_code == 503
        assert answer.json()["error"]

    def test_an_error_on_the_way(self, client: httpx2.Client, path: str) -> None:
        answer = client.post(path, json={**scripted(path, error_at=2), "stream": True})
        assert answer.status_code == 200
        assert "Hello" in answer.text
        last = answer.text.rstrip().splitlines()[-1].removeprefix("data: ")
        assert "scripted failure" in last
        assert "error" in json.loads(last) or json.loads(last)["type"] == "response.failed"

    def test_who_hangs_up_ends_the_answer(self, gateway: Served, client: httpx2.Client, path: str) -> None:
        cancelled = gateway.worker.stats()["cancelled"]
        body = {**scripted(path, tokens=500, delay=0.01), "stream": True}
        with client.stream("POST", path, json=body) as answer:
            next(answer.iter_raw())
        wait_until(lambda: gateway.worker.stats()["cancelled"] == cancelled + 1)
        wait_until(lambda: not gateway.fleet.leases)


# --- Ollama ----------------------------------------------------------------------------------------------------------


def test_ollama_lists_and_describes(client: httpx2.Client) -> None:
    tags = client.get("/api/tags").json()["models"]
    assert [model["model"] for model in tags] == ["tiny:1m", "hf:owner/repo:file.gguf"]
    assert tags[0]["details"]["parameter_size"] == "1.0M"
    (loaded,) = client.get("/api/ps").json()["models"]
    assert (loaded["name"], loaded["context_length"]) == ("tiny:1m", 2048)
    shown = client.post("/api/show", json={"model": "tiny"}).json()
    assert shown["model_info"]["llama.context_length"] == 2048
    assert client.head("/api/version").status_code == 200


def test_ollama_lists_first_what_can_chat(
    gateway: Served, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = replace(INFO, kind="embed")
    monkeypatch.setattr(gateway.gateway.store, "inspect", lambda name: embedder if name == MODEL.name else INFO)
    tags = client.get("/api/tags").json()["models"]
    assert [model["model"] for model in tags] == [HUB_MODEL.name, MODEL.name]


def test_ollama_pulls(client: httpx2.Client) -> None:
    lines = [json.loads(line) for line in client.post("/api/pull", json={"model": "tiny"}).text.splitlines()]
    assert lines[-1] == {"status": "success"}
    assert client.post("/api/pull", json={"name": "tiny", "stream": False}).json() == {"status": "success"}
    missing = client.post("/api/pull", json={"model": "nope"})
    assert (missing.status_code, "nope" in missing.json()["error"]) == (404, True)
    assert client.post("/api/pull", json={"model": "/etc/passwd"}).status_code == 400


def test_ollama_unloads_and_deletes(gateway: Served, client: httpx2.Client) -> None:
    assert client.post("/api/generate", json={"model": "tiny", "keep_alive": 0}).json()["done_reason"] == "unload"
    assert client.post("/api/chat", json={"model": "tiny"}).json()["done_reason"] == "load"
    assert client.request("DELETE", "/api/delete", json={"model": "tiny"}).status_code == 200
    assert len(gateway.fleet.stopped) == 2
    assert gateway.gateway.store.removed == [MODEL.name]  # type: ignore[attr-defined]


def test_ollama_says_how_long_a_model_stays(gateway: Served, client: httpx2.Client) -> None:
    client.post("/api/chat", json={**ASK["/api/chat"], "keep_alive": "10m"})
    assert gateway.fleet.demands[-1].keep_alive_seconds == 600


def test_ollama_on_its_own_port(serve: Callable[..., Served]) -> None:
    served = serve(Settings(ollama_port=1))
    with served.client() as client:
        assert client.get("/").status_code == 404
        assert client.get("/api/version").status_code == 200


@pytest.mark.parametrize(("port", "match"), [(11434, Match.FULL), (11435, Match.NONE), (None, Match.NONE)])
def test_ollamas_greeting_is_on_its_port_only(port: int | None, match: Match) -> None:
    scope = {"type": "http", "path": "/", "method": "GET", "server": ("127.0.0.1", port)}
    assert greeting_route(11434).matches(scope)[0] is match


def test_ollamas_port_is_a_second_address(tmp_path: Path) -> None:
    first, second = listener.addresses(Settings(uds=tmp_path / "s", ollama_port=11434))
    assert (first.uds, second.uds, second.port) == (tmp_path / "s", None, 11434)
    assert listener.addresses(Settings(port=1)) == [Settings(port=1)]


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/push"), ("POST", "/api/blobs/sha256:1")])
def test_ollama_says_what_it_does_not_do(client: httpx2.Client, method: str, path: str) -> None:
    answer = client.request(method, path, json={})
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


# --- Anthropic -------------------------------------------------------------------------------------------------------


def test_anthropic_is_told_of_models_in_its_shape(client: httpx2.Client) -> None:
    version = {"anthropic-version": "2023-06-01"}
    page = client.get("/v1/models", headers=version).json()
    assert [model["id"] for model in page["data"]] == ["tiny:1m", "hf:owner/repo:file.gguf"]
    assert page["has_more"] is False
    assert client.get("/v1/models/tiny", headers=version).json()["type"] == "model"
    missing = client.get("/v1/models/nope", headers=version)
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert client.get("/v1/models").json()["object"] == "list"


def test_anthropic_counts(gateway: Served, client: httpx2.Client) -> None:
    answer = client.post("/v1/messages/count_tokens", json={"model": "tiny", "messages": [HELLO]})
    assert answer.json() == {"input_tokens": COMPUTED["count"]}
    (seen,) = gateway.worker.seen(answer.headers["x-request-id"])
    assert seen == {"model": "tiny", "messages": [HELLO], "reasoning_effort": "none"}
    assert gateway.fleet.demands[-1].kind == "generate"
    refused = client.post("/v1/messages/count_tokens", json={"model": "nope", "messages": [HELLO]})
    assert (refused.status_code, refused.json()["error"]["type"]) == (404, "not_found_error")


def test_anthropic_is_told_that_a_key_is_missing_in_its_shape(locked_gateway: Served) -> None:
    with locked_gateway.client() as client:
        answer = client.post("/v1/messages", json=ASK["/v1/messages"])
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


def test_anthropic_pings_while_nothing_comes(client: httpx2.Client) -> None:
    answer = client.post("/v1/messages", json={**scripted("/v1/messages", first_delay=0.4), "stream": True})
    assert answer.text.startswith('event: ping\ndata: {"type":"ping"}\n\n')


# --- Responses -------------------------------------------------------------------------------------------------------


def create(client: httpx2.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/responses", json={"model": "tiny", "input": "hi", **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_response_is_kept_and_gone_on_with(gateway: Served, client: httpx2.Client) -> None:
    first = create(client, metadata={"k": "v"})
    assert client.get(f"/v1/responses/{first['id']}").json() == first
    second = client.post("/v1/responses", json={"model": "tiny", "input": "and?", "previous_response_id": first["id"]})
    (seen,) = gateway.worker.seen(second.headers["x-request-id"])
    assert [(message["role"], message["content"]) for message in seen["messages"]] == [
        *(("user", "hi"), ("assistant", SAID), ("user", "and?"))
    ]


def test_what_a_response_would_read_is_counted(gateway: Served, client: httpx2.Client) -> None:
    first = create(client)
    body = {"model": "tiny", "input": "and?", "previous_response_id": first["id"]}
    answer = client.post("/v1/responses/input_tokens", json=body)
    assert answer.json() == {"object": "response.input_tokens", "input_tokens": COMPUTED["count"]}
    (counted,) = gateway.worker.seen(answer.headers["x-request-id"])
    (sent,) = gateway.worker.seen(client.post("/v1/responses", json=body).headers["x-request-id"])
    assert counted["messages"] == sent["messages"]
    assert "max_tokens" not in counted
    assert client.post("/v1/responses/input_tokens", json={"model": "nope", "input": "x"}).status_code == 404


def test_a_streamed_response_is_kept_before_its_end_is_told(client: httpx2.Client) -> None:
    answer = client.post("/v1/responses", json={"model": "tiny", "input": "hi", "stream": True})
    final = json.loads(answer.text.rstrip().splitlines()[-1].removeprefix("data: "))["response"]
    assert client.get(f"/v1/responses/{final['id']}").json() == final


def test_what_is_not_stored_is_not_there(client: httpx2.Client) -> None:
    unkept = create(client, store=False)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        answer = client.request(method, f"/v1/responses/{unkept['id']}{path}", json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "response_not_found")
    answer = client.post("/v1/responses", json={"model": "tiny", "input": "x", "previous_response_id": unkept["id"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "previous_response_id")


def test_a_response_is_deleted(client: httpx2.Client) -> None:
    kept = create(client)
    assert client.delete(f"/v1/responses/{kept['id']}").json()["deleted"] is True
    assert client.get(f"/v1/responses/{kept['id']}").status_code == 404


def test_input_items_in_pages(client: httpx2.Client) -> None:
    kept = create(client, input=[{"role": "user", "content": text} for text in "abc"])
    path = f"/v1/responses/{kept['id']}/input_items"
    page = client.get(path, params={"limit": "2", "order": "asc"}).json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["a", "b"]
    assert page["has_more"] is True
    rest = client.get(path, params={"order": "asc", "after": page["last_id"]}).json()
    assert [item["content"][0]["text"] for item in rest["data"]] == ["c"]
    assert [item["content"][0]["text"] for item in client.get(path).json()["data"]] == ["c", "b", "a"]
    for bad in ({"limit": "0"}, {"limit": "x"}, {"order": "up"}, {"after": "nope"}):
        assert client.get(path, params=bad).status_code == 400


def test_a_response_in_the_background(client: httpx2.Client, tmp_path: Path) -> None:
    gate = tmp_path / "go"
    queued = create(client, background=True, input=json.dumps({"gate": str(gate), "gate_at": 1}))
    path = f"/v1/responses/{queued['id']}"
    assert queued["status"] == "queued"
    wait_until(lambda: client.get(path).json()["status"] == "in_progress")
    gate.touch()
    wait_until(lambda: client.get(path).json()["status"] == "completed")
    assert client.get(path).json()["output"][0]["content"][0]["text"] == SAID
    assert client.post(f"{path}/cancel", json={}).json()["status"] == "completed"
    # Its events can be had until whoever writes it has let go of it, which is just after it is stored.
    wait_until(lambda: client.get(path, params={"stream": "true"}).status_code == 400)


def test_a_body_that_says_nothing_may_come_late(gateway: Served, client: httpx2.Client) -> None:
    """The connection goes on: the next request on it is answered."""
    kept = create(client, background=True, input="x")
    path = f"/v1/responses/{kept['id']}"
    with gateway.connect() as connection:
        head = gateway.head("POST", f"{path}/cancel", "Content-Type: application/json", "Content-Length: 2")
        connection.sendall(head)
        assert not select.select([connection], [], [], 0.05)[0]
        connection.sendall(b"{}")
        assert read_answer(connection).status == 200
        connection.sendall(gateway.head("GET", path))
        assert read_answer(connection).status == 200


def test_a_response_in_the_background_is_cancelled(gateway: Served, client: httpx2.Client) -> None:
    queued = create(client, background=True, input=json.dumps({"hang_at": 1}))
    path = f"/v1/responses/{queued['id']}"
    wait_until(lambda: client.get(path).json()["output"])
    cancelled = client.post(f"{path}/cancel", json={}).json()
    assert (cancelled["status"], cancelled["output"][0]["content"][0]["text"]) == ("cancelled", "Hello")
    assert client.get(path).json() == cancelled
    wait_until(lambda: not gateway.fleet.leases)


def test_a_response_in_the_background_fails(gateway: Served, client: httpx2.Client) -> None:
    gateway.fleet.failure = TooManyRequests("the queue is full")
    queued = create(client, background=True)
    wait_until(lambda: client.get(f"/v1/responses/{queued['id']}").json()["status"] == "failed")
    assert client.get(f"/v1/responses/{queued['id']}").json()["error"]["message"] == "the queue is full"


def test_who_listens_to_a_response_in_the_background_may_leave_and_come_back(
    client: httpx2.Client, tmp_path: Path
) -> None:
    gate = tmp_path / "go"
    body = {"model": "tiny", "input": json.dumps({"gate": str(gate), "gate_at": 2}), "background": True, "stream": True}
    with client.stream("POST", "/v1/responses", json=body) as answer:
        # Comments may come before it, as long as nothing else is to be said.
        first = next(line for line in answer.iter_lines() if line.startswith("data: "))
    created = json.loads(first.removeprefix("data: "))
    path = f"/v1/responses/{created['response']['id']}"
    with client.stream("GET", path, params={"stream": "true", "starting_after": "3"}) as answer:
        gate.touch()
        lines = [json.loads(line[6:]) for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    numbers = [line["sequence_number"] for line in lines]
    assert numbers == list(range(4, 4 + len(numbers)))
    assert lines[-1]["type"] == "response.completed"
    wait_until(lambda: client.get(path).json()["status"] == "completed")


def test_only_what_is_in_the_background_can_be_cancelled(client: httpx2.Client) -> None:
    assert client.post(f"/v1/responses/{create(client)['id']}/cancel", json={}).status_code == 400


# --- Open WebUI ------------------------------------------------------------------------------------------------------


def test_an_entry_says_what_open_webui_reads(client: httpx2.Client) -> None:
    for path in ("/v1/models", "/models"):
        entry = client.get(path).json()["data"][0]
        assert entry["info"]["meta"]["capabilities"]["usage"] is True
        assert entry["details"] == {**entry["details"], "quantization_level": "Q4_0", "size": 1000}
        assert entry["status"] == {"value": "loaded"}


@pytest.mark.parametrize(
    ("template", "knows"),
    [(None, False), ("{{ messages[0].content }}", False), ("{% if tools %}{{ tools | tojson }}{% endif %}", True)],
)
def test_open_webui_keeps_its_tools_from_models_that_know_none(
    gateway: Served, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch, template: str | None, knows: bool
) -> None:
    monkeypatch.setattr(gateway.gateway.store, "inspect", lambda name: replace(INFO, chat_template=template))
    entry = client.get("/v1/models").json()["data"][0]
    assert entry["info"]["meta"]["capabilities"]["builtin_tools"] is knows


def test_the_router_loads_unloads_pulls_and_removes(gateway: Served, client: httpx2.Client) -> None:
    success = {"success": True}
    assert client.post("/models/load", json={"model": "tiny"}).json() == success
    wait_until(lambda: gateway.fleet.asked)
    assert client.post("/models/unload", json={"model": "tiny"}).json() == success
    assert client.post("/models", json={"model": "tiny"}).json() == success
    assert client.delete("/models", params={"model": "tiny"}).json() == success
    assert gateway.gateway.store.removed == [MODEL.name]  # type: ignore[attr-defined]
    for answer in (client.post("/models/load", json={"model": "nope"}), client.delete("/models?model=nope")):
        assert answer.status_code == 404
    assert client.delete("/models").status_code == 400


@pytest.mark.parametrize(
    ("headers", "background"),
    [
        ({}, False),
        ({"x-task": "title_generation"}, True),
        ({"x-task": "query_generation"}, False),
        ({"x-task": ""}, False),
        ({"x-task": "tags_generation", "x-llmserve-priority": "normal"}, False),
        ({"x-llmserve-priority": "background"}, True),
    ],
)
def test_background_calls(gateway: Served, client: httpx2.Client, headers: dict[str, str], background: bool) -> None:
    body = {"model": "tiny", "messages": [HELLO]}
    assert client.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    assert gateway.fleet.demands[-1].background is background


# --- what is not there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/speech", "/v1/images/generations"])
@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x"])
def test_audio_and_images(client: httpx2.Client, path: str, content_type: str) -> None:
    answer = client.post(path, content=b"--x--", headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_supported")


# --- the description -------------------------------------------------------------------------------------------------


def test_openapi_describes_every_route(gateway: Served, client: httpx2.Client) -> None:
    described = client.get("/openapi.json").json()
    # The page is no part of the API.
    routes = [route for route in every_route(gateway.gateway) if route.include_in_schema]
    assert len(routes) > 40
    known = {(method, route.path) for route in routes for method in route.methods or ()}
    assert BODIES.keys() <= known
    for method, path in known - {("HEAD", route.path) for route in routes}:
        operation = described["paths"][path.replace(":path", "")][method.lower()]
        assert {"200", "400", "401"} <= operation["responses"].keys()
    names = described["components"]["schemas"].keys()
    references = {part.partition('"')[0] for part in json.dumps(described).split("#/components/schemas/")[1:]}
    assert references <= names


def test_openapi_says_every_status_of_the_error_tree(client: httpx2.Client) -> None:
    def kinds(kind: type[LlmserveError]) -> Iterator[type[LlmserveError]]:
        yield kind
        for more in kind.__subclasses__():
            yield from kinds(more)

    statuses = {str(kind.status) for kind in kinds(LlmserveError)}
    for path in client.get("/openapi.json").json()["paths"].values():
        for operation in path.values():
            assert statuses <= operation["responses"].keys()


@pytest.mark.parametrize("operation", [("/api/copy", "post"), ("/api/delete", "delete")])
def test_openapi_promises_no_body_where_there_is_none(client: httpx2.Client, operation: tuple[str, str]) -> None:
    path, method = operation
    described = client.get("/openapi.json").json()["paths"][path][method]["responses"]
    assert described["200"]["content"] == {}
    assert described["404"]["content"].keys() == {"application/json"}


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("top_p", 2.0**-126, 2.0**-127),
        ("model", "tiny", "ti\u0085ny"),
        ("stop", "\n", ""),
        ("stop", ["a", "b"], [""]),
        (
            "tools",
            [{"type": "function", "function": {"name": "f.g-1"}}],
            [{"type": "function", "function": {"name": "f g"}}],
        ),
    ],
)
def test_openapi_and_the_server_agree(client: httpx2.Client, field: str, right: object, wrong: object) -> None:
    """What the description allows is accepted, and what it does not allow is refused."""
    described = client.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/ChatRequest", "components": described["components"]}
    judge = jsonschema.Draft202012Validator(schema)
    for value, is_right in ((right, True), (wrong, False)):
        body = {"model": "tiny", "messages": [HELLO], field: value}
        assert judge.is_valid(body) == is_right
        assert (client.post("/v1/chat/completions", json=body).status_code == 200) == is_right
