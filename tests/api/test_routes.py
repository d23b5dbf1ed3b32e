"""What the routes answer when all is well, and what anybody learns when it is not."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmserve import __version__
from llmserve.api.limits import Limits
from llmserve.api.logs import JsonLines
from llmserve.errors import Conflict, Unavailable
from llmserve.fleet.worker_counters import WorkerCounters
from llmserve.settings import Settings
from tests.api.conftest import KEY
from tests.api.fakes import HUB_MODEL, INFO, MODEL, Served, wait_until

CHAT = "/v1/chat/completions"


def chat(content: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}


@pytest.fixture
def fresh(serve: Callable[..., Served]) -> Served:
    return serve(limits=Limits(grace_seconds=0.05))


@pytest.fixture
def client(open_gateway: Served) -> Iterator[httpx2.Client]:
    with open_gateway.client() as client:
        yield client


# --- models ----------------------------------------------------------------------------------------------------------


def test_models_are_listed_in_openais_shape_with_more(client: httpx2.Client) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    assert [entry["id"] for entry in answer["data"]] == [MODEL.name, HUB_MODEL.name]
    first = answer["data"][0]
    assert (first["object"], first["created"], first["owned_by"]) == ("model", int(MODEL.pulled_at), "llmserve")
    assert (first["name"], first["context_length"]) == (MODEL.name, INFO.context_length)
    assert "path" not in first
    assert "source" not in first


@pytest.mark.parametrize("name", [MODEL.name, "tiny", HUB_MODEL.name, "hf%3Aowner%2Frepo%3Afile.gguf"])
def test_one_model_by_any_of_its_names(client: httpx2.Client, name: str) -> None:
    answer = client.get(f"/v1/models/{name}")
    assert answer.status_code == 200
    assert answer.json()["id"] in {MODEL.name, HUB_MODEL.name}


@pytest.mark.parametrize("name", ["nope", "", "tiny/", "%00", "%0d%0aInjected:1"])
def test_an_unknown_model_is_404(client: httpx2.Client, name: str) -> None:
    answer = client.get(f"/v1/models/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in {"model_not_found", "not_found"}
    assert "injected" not in answer.headers


# --- state -----------------------------------------------------------------------------------------------------------


def test_health_says_who_answers(client: httpx2.Client) -> None:
    answer = client.get("/health")
    assert answer.json() == {"status": "ok", "service": "llmserve", "version": __version__}


def test_a_draining_gateway_is_unhealthy_and_takes_no_more_work(fresh: Served) -> None:
    fresh.gateway.draining = True
    with fresh.client() as client:
        assert client.get("/health").status_code == 503
        assert client.get("/health").json()["service"] == "llmserve"
        assert client.get("/ready").status_code == 503
        for path, body in ((CHAT, chat()), (CHAT, chat(stream=True)), ("/admin/load", {"model": "tiny"})):
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert fresh.fleet.asked == []


def test_ready_waits_for_the_preloaded_models(fresh: Served) -> None:
    fresh.fleet.door.clear()
    with fresh.client() as client:
        assert client.get("/ready").json() == {"status": "ready"}
        fresh.on_loop(lambda: fresh.gateway.preload(["tiny"]))
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()) == (503, {"status": "loading", "pending": {"tiny": "loading"}})
        fresh.fleet.door.set()
        wait_until(lambda: client.get("/ready").status_code == 200)
    assert not fresh.fleet.leases


def test_ready_names_what_could_not_be_loaded(fresh: Served) -> None:
    fresh.fleet.failure = Unavailable("no room")
    fresh.on_loop(lambda: fresh.gateway.preload(["tiny", "nope"]))
    with fresh.client() as client:
        wait_until(lambda: "loading" not in client.get("/ready").json()["pending"].values())
        pending = client.get("/ready").json()["pending"]
    assert pending["tiny"] == "no room"
    assert "nope" in pending["nope"]


# --- administration --------------------------------------------------------------------------------------------------


def test_ps_shows_what_is_loaded(client: httpx2.Client) -> None:
    (model,) = client.get("/admin/ps").json()["models"]
    assert (model["name"], model["state"], model["plan"]["context"]) == (MODEL.name, "ready", 2048)


def test_load_and_stop(fresh: Served) -> None:
    with fresh.client() as client:
        assert client.post("/admin/load", json={"model": "tiny"}).json() == {"model": "tiny", "status": "ready"}
        assert client.post("/admin/stop", json={"model": "tiny"}).json() == {"model": "tiny", "stopped": True}
    assert (fresh.fleet.asked, fresh.fleet.stopped) == (["tiny"], ["tiny"])
    assert not fresh.fleet.leases


@pytest.mark.parametrize("path", ["/admin/load", "/admin/stop"])
@pytest.mark.parametrize("body", [{}, {"model": 1}, {"model": "tiny", "force": True}, ["tiny"], "tiny"])
def test_an_administrative_body_is_exact(open_gateway: Served, client: httpx2.Client, path: str, body: Any) -> None:
    effects = (len(open_gateway.fleet.asked), len(open_gateway.fleet.stopped))
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    assert (len(open_gateway.fleet.asked), len(open_gateway.fleet.stopped)) == effects


def test_a_client_that_stops_waiting_for_a_load_leaves_it(fresh: Served) -> None:
    fresh.fleet.door.clear()
    body = b'{"model": "tiny"}'
    head = fresh.head("POST", "/admin/load", "Content-Type: application/json", f"Content-Length: {len(body)}")
    with fresh.connect() as connection:
        connection.sendall(head + body)
        wait_until(lambda: fresh.fleet.waiting == 1)
    wait_until(lambda: fresh.fleet.waiting == 0)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/v1", "/docs", "/v1/images", "/v1/models/../health2", "/%2e%2e"])
def test_an_unknown_route_is_404_in_openais_shape(open_gateway: Served, path: str) -> None:
    answer = open_gateway.raw(open_gateway.head("GET", path))
    assert answer.status == 404
    assert answer.error["type"] == "invalid_request_error"


SECRET = "/home/somebody/prompt-canary 0x7f00deadbeef"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "failure", [KeyError(SECRET), Conflict.__mro__[1](SECRET)], ids=["A7 KeyError", "A7 bare error"]
)
def test_an_internal_error_shows_its_id_and_nothing_else(
    fresh: Served, failure: Exception, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fresh.fleet.failure = failure
    with fresh.client() as client, caplog.at_level(logging.ERROR):
        answer = client.post(CHAT, json=chat(stream=stream), headers={"X-Request-Id": "the-id"})
        again = client.get("/health")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "internal error (request id the-id)"
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    assert again.status_code == 200
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    line = JsonLines().format(record)
    entry = json.loads(line)
    assert "the-id" in entry["message"]
    assert entry["exception"] == type(failure).__qualname__
    assert "fakes.py" in entry["origin"]
    assert SECRET not in line
    assert "\n" not in line


def test_a7_an_internal_error_in_a_started_stream_is_an_event(fresh: Served) -> None:
    fresh.fleet.door.clear()
    fresh.fleet.failure = KeyError(SECRET)
    with fresh.client() as client, client.stream("POST", CHAT, json=chat(stream=True)) as answer:
        assert answer.status_code == 200
        fresh.fleet.door.set()
        body = answer.read()
    assert b"internal error (request id " in body
    assert SECRET.encode() not in body
    assert b"[DONE]" not in body


def test_a_log_line_is_one_line_of_ascii() -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s", ("a\r\nb \x1b[31m \u2028 ü" + "z" * 10_000,), None)
    line = JsonLines().format(record)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 5000


# --- metrics ---------------------------------------------------------------------------------------------------------


def samples(gateway: Served) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with gateway.client() as client:
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_metrics_count_what_happened(fresh: Served) -> None:
    with fresh.client() as client:
        usage = client.post(CHAT, json=chat()).json()["usage"]
        client.post(CHAT, json=chat(stream=True, stream_options={"include_usage": True}))
        client.post(CHAT, json=chat(n=-1))
        client.get("/nope")
    seen = samples(fresh)
    labels = (("method", "POST"), ("route", CHAT))
    assert seen["llmserve_requests_total", (*labels, ("status", "2xx"))] == 2
    assert seen["llmserve_requests_total", (*labels, ("status", "4xx"))] == 1
    assert seen["llmserve_requests_total", (("method", "GET"), ("route", "none"), ("status", "4xx"))] == 1
    assert seen["llmserve_request_duration_seconds_count", (("route", CHAT),)] == 3
    assert seen["llmserve_time_to_first_content_seconds_count", (("model", MODEL.name),)] == 1
    for kind in ("prompt", "completion"):
        assert seen["llmserve_tokens_total", (("kind", kind), ("model", MODEL.name))] == 2 * usage[f"{kind}_tokens"]
    assert seen["llmserve_generations_in_flight", ()] == 0
    assert seen["llmserve_worker_restarts", (("model", MODEL.name),)] == 3
    assert seen["llmserve_queue_depth", (("model", MODEL.name),)] == 0


def test_metrics_add_up_what_the_workers_of_a_model_counted(fresh: Served) -> None:
    def scraped(pid: int, **counts: float) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        fresh.fleet.counted = (WorkerCounters(MODEL.name, pid, counts),)
        return samples(fresh)

    model = ("model", MODEL.name)
    cached = "llmserve_prompt_tokens_total", (model, ("source", "cached"))
    from_disk = "llmserve_prefix_restores_total", (model, ("tier", "disk"))
    seen = scraped(1, cached_tokens=100, restored_from_disk=1, drafted_tokens=8, accepted_tokens=5, preemptions=2)
    assert (seen[cached], seen[from_disk]) == (100, 1)
    assert seen["llmserve_draft_tokens_proposed_total", (model,)] == 8
    assert seen["llmserve_draft_tokens_accepted_total", (model,)] == 5
    assert seen["llmserve_preemptions_total", (model,)] == 2
    assert scraped(1, cached_tokens=150, restored_from_disk=1)[cached] == 150
    assert scraped(2, cached_tokens=30)[cached] == 180
    fresh.fleet.counted = ()
    assert samples(fresh)[cached] == 180


def test_metrics_tell_a_swap_from_other_unloads(fresh: Served) -> None:
    turnover = fresh.fleet.turnover
    turnover.loads[MODEL.name] += 3
    turnover.unloads[MODEL.name, "room"] += 2
    turnover.unloads[MODEL.name, "idle"] += 1
    seen = samples(fresh)
    model = ("model", MODEL.name)
    assert seen["llmserve_model_loads_total", (model,)] == 3
    assert seen["llmserve_model_unloads_total", (("cause", "room"), model)] == 2
    assert seen["llmserve_model_unloads_total", (("cause", "idle"), model)] == 1


def test_metrics_show_what_is_in_flight(fresh: Served) -> None:
    fresh.fleet.door.clear()
    with fresh.client() as client, client.stream("POST", CHAT, json=chat(stream=True)) as answer:
        seen = samples(fresh)
        fresh.fleet.door.set()
        answer.read()
    assert seen["llmserve_generations_in_flight", ()] == 1
    assert seen["llmserve_queue_depth", (("model", MODEL.name),)] == 1


def test_a8_nothing_a_client_writes_becomes_a_label(fresh: Served) -> None:
    with fresh.client() as client:
        client.post(CHAT, json=chat())
        before = set(samples(fresh))
        for number in range(50):
            client.post(CHAT, json={**chat("canary-prompt"), "model": f"canary-model-{number}"})
            client.get(f"/canary-path-{number}")
            client.get(f"/v1/models/canary-{number}")
            client.request("PROPFIND" if number % 2 else "SEARCH", "/health")
        after = samples(fresh)
    assert "canary" not in repr(after)
    routes = {dict(labels).get("route") for _, labels in after}
    assert routes <= {None, "none", CHAT, "/v1/models/{model:path}", "/health", "/metrics"}
    assert len({key for key in after if key not in before}) < 120
    with fresh.client() as client:
        for number in range(50):
            client.post(CHAT, json={**chat(), "model": f"canary-{number}"})
    assert set(samples(fresh)) == set(after)


@pytest.mark.parametrize("path", ["/metrics", "/ready", "/admin/ps", "/docs"], ids=lambda path: f"A8 {path}")
def test_everything_but_health_is_behind_the_key(serve: Callable[..., Served], path: str) -> None:
    with serve(Settings(api_key=KEY)).client() as client:
        assert client.get(path).status_code == 401
