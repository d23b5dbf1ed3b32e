"""`/v1/batches` through a gateway and a worker, with the official client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Batch

from llmserve.settings import Settings
from tests.api.fakes import Served, wait_until

SAID = "Hello from the fake worker."
# How a line of each endpoint asks for an answer, and where that is.
ENDPOINTS: dict[str, tuple[dict[str, Any], Callable[[Any], object]]] = {
    "/v1/chat/completions": (
        {"messages": [{"role": "user", "content": "hi"}]},
        lambda body: body["choices"][0]["message"]["content"],
    ),
    "/v1/completions": ({"prompt": "hi"}, lambda body: body["choices"][0]["text"]),
    "/v1/embeddings": ({"input": "hi"}, lambda body: body["object"]),
    "/v1/responses": ({"input": "hi", "store": False}, lambda body: body["output"][0]["content"][0]["text"]),
}
CHAT = "/v1/chat/completions"


@pytest.fixture
def gateway(serve: Callable[..., Served], tmp_path: Path) -> Served:
    return serve(Settings(home=tmp_path))


@pytest.fixture
def official(gateway: Served) -> Iterator[openai.OpenAI]:
    with client_of(gateway) as client:
        yield client


def client_of(gateway: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://{gateway.authority}/v1", api_key="unused", max_retries=0)


def line(number: int, url: str = CHAT, **body: Any) -> dict[str, Any]:
    body = {"model": "tiny", **ENDPOINTS[url][0], **body}
    return {"custom_id": f"id {number}", "method": "POST", "url": url, "body": body}


def scripted(number: int, **script: Any) -> dict[str, Any]:
    return line(number, messages=[{"role": "user", "content": json.dumps(script)}])


def start(official: openai.OpenAI, lines: list[Any], url: str = CHAT, **fields: Any) -> Batch:
    content = "\n".join(json.dumps(one) for one in lines).encode()
    file = official.files.create(file=("in.jsonl", content), purpose="batch")
    created = official.batches.create(
        input_file_id=file.id,
        endpoint=url,  # type: ignore[arg-type]
        completion_window="24h",
        **fields,
    )
    assert created.status == "validating"
    return created


def ended(official: openai.OpenAI, batch: Batch) -> Batch:
    """The batch when it is final."""
    found: list[Batch] = []

    def is_final() -> bool:
        found[:] = [official.batches.retrieve(batch.id)]
        return found[0].status in {"failed", "completed", "expired", "cancelled"}

    wait_until(is_final)
    return found[0]


def lines_of(official: openai.OpenAI, id: str | None) -> list[Any]:
    return [] if id is None else [json.loads(text) for text in official.files.content(id).text.splitlines()]


def ids(lines: list[Any]) -> list[str]:
    return [line["custom_id"] for line in lines]


@pytest.mark.parametrize("url", ENDPOINTS)
def test_every_endpoint(official: openai.OpenAI, gateway: Served, url: str) -> None:
    lines = [line(number, url) for number in range(20)]
    lines[3]["body"]["model"] = "tiny:1m"
    lines[5]["body"]["stream"] = True
    batch = ended(official, start(official, lines, url, metadata={"job": "nightly"}))
    assert (batch.status, batch.endpoint, batch.metadata) == ("completed", url, {"job": "nightly"})
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 20, "completed": 19, "failed": 1}
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert batch.expires_at == batch.created_at + 86_400
    answers, errors = lines_of(official, batch.output_file_id), lines_of(official, batch.error_file_id)
    assert ids(answers) == [f"id {number}" for number in range(20) if number != 5]
    for answer in answers:
        assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
        assert ENDPOINTS[url][1](answer["response"]["body"]) in {SAID, "list"}
        assert answer["response"]["request_id"].startswith("req-")
    assert ids(errors) == ["id 5"]
    assert errors[0]["response"]["body"]["error"]["param"] == "stream"
    assert batch.usage is not None
    assert batch.usage.output_tokens == (0 if url == "/v1/embeddings" else 19 * 6)
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens > 0
    assert official.files.retrieve(str(batch.output_file_id)).purpose == "batch_output"
    assert {demand.background for demand in gateway.fleet.demands} == {True}
    assert {demand.client for demand in gateway.fleet.demands} == {batch.id}


def test_batches_are_listed_the_newest_first(official: openai.OpenAI) -> None:
    made = [start(official, [line(1)]) for _ in range(3)]
    for batch in made:
        assert ended(official, batch).status == "completed"
    assert [batch.id for batch in official.batches.list(limit=2)] == [batch.id for batch in reversed(made)]


@pytest.mark.parametrize(
    ("lines", "code", "number", "param"),
    [
        ([line(1), line(2, model="absent")], "model_not_found", 2, "body.model"),
        ([line(1), {"custom_id": "x"}], "invalid_line", 2, "method"),
        ([line(1), line(1)], "duplicate_custom_id", 2, "custom_id"),
        ([line(1), line(2, "/v1/embeddings")], "endpoint_mismatch", 2, "url"),
        ([], "empty_file", None, None),
    ],
)
def test_a_file_that_is_wrong_fails_as_a_whole(
    official: openai.OpenAI, gateway: Served, lines: list[Any], code: str, number: int | None, param: str | None
) -> None:
    batch = ended(official, start(official, lines))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert batch.errors.data is not None
    (error,) = batch.errors.data
    assert (error.code, error.line, error.param) == (code, number, param)
    assert error.message
    assert gateway.fleet.asked == []


def test_a_line_that_is_wrong_fails_alone(official: openai.OpenAI) -> None:
    lines = [line(1), line(2, temperature=9), scripted(3, status=422), line(4)]
    batch = ended(official, start(official, lines))
    assert (batch.status, ids(lines_of(official, batch.output_file_id))) == ("completed", ["id 1", "id 4"])
    errors = lines_of(official, batch.error_file_id)
    assert [(error["custom_id"], error["response"]["status_code"]) for error in errors] == [
        ("id 2", 400),
        ("id 3", 422),
    ]
    assert errors[0]["response"]["body"]["error"]["param"] == "temperature"


# --- what ends a batch early ---


def held_batch(official: openai.OpenAI, tmp_path: Path, gateway: Served) -> Batch:
    """A batch with two lines that are answered, and two whose worker waits."""
    before = gateway.worker.stats()["running"]
    gate = str(tmp_path / "gate")
    batch = start(official, [scripted(1, gate=gate), line(2), scripted(3, gate=gate), line(4)])

    def is_held() -> bool:
        counts = official.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed == 2 and gateway.worker.stats()["running"] == before + 2

    wait_until(is_held)
    return batch


def test_cancel_keeps_what_is_answered(official: openai.OpenAI, gateway: Served, tmp_path: Path) -> None:
    batch = held_batch(official, tmp_path, gateway)
    queued = start(official, [line(1)])
    wait_until(lambda: official.batches.retrieve(queued.id).status == "in_progress")
    assert official.batches.cancel(queued.id).status == "cancelling"
    stopped = official.batches.cancel(batch.id)
    assert (stopped.status, stopped.cancelling_at is None) == ("cancelling", False)
    batch = ended(official, batch)
    assert (batch.status, batch.error_file_id) == ("cancelled", None)
    assert ids(lines_of(official, batch.output_file_id)) == ["id 2", "id 4"]
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 4, "completed": 2, "failed": 0}
    wait_until(lambda: not gateway.fleet.leases)
    final = ended(official, queued)
    assert (final.status, final.output_file_id) == ("cancelled", None)
    assert official.batches.cancel(batch.id) == batch


def test_what_is_final_cannot_be_cancelled(official: openai.OpenAI) -> None:
    batch = ended(official, start(official, [line(1)]))
    with pytest.raises(openai.BadRequestError, match="completed"):
        official.batches.cancel(batch.id)
    for act in (official.batches.cancel, official.batches.retrieve):
        with pytest.raises(openai.NotFoundError):
            act("batch_none")


def test_a_batch_fails_whose_file_is_deleted(official: openai.OpenAI, gateway: Served, tmp_path: Path) -> None:
    batch = held_batch(official, tmp_path, gateway)
    queued = start(official, [line(1)])
    wait_until(lambda: official.batches.retrieve(queued.id).status == "in_progress")
    official.files.delete(queued.input_file_id)
    official.files.delete(batch.input_file_id)
    for one, answered in ((batch, ["id 2", "id 4"]), (queued, [])):
        final = ended(official, one)
        assert final.status == "failed"
        assert final.errors is not None
        assert final.errors.data is not None
        assert [error.code for error in final.errors.data] == ["input_file_not_found"]
        assert ids(lines_of(official, final.output_file_id)) == answered


def test_a_server_that_stops_holds_nothing_against_a_line(
    official: openai.OpenAI, gateway: Served, serve: Callable[..., Served], tmp_path: Path
) -> None:
    batch = held_batch(official, tmp_path, gateway)
    gateway.loop.call_soon_threadsafe(lambda: gateway.loop.create_task(gateway.gateway.drain(30)))
    # Nobody waits for the lines that are out.
    wait_until(lambda: not gateway.fleet.leases)
    gateway.stop()
    (tmp_path / "gate").touch()
    successor = serve(Settings(home=tmp_path))
    with client_of(successor) as client:
        # The first server lets go of the files when it has ended.
        def is_there() -> bool:
            try:
                return client.batches.retrieve(batch.id) is not None
            except openai.ConflictError:
                return False

        wait_until(is_there)
        final = ended(client, batch)
        assert (final.status, final.error_file_id) == ("completed", None)
        assert ids(lines_of(client, final.output_file_id)) == ["id 1", "id 2", "id 3", "id 4"]


# --- requests that are wrong ---


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/audio/speech"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "0h"}, "completion_window"),
        ({"completion_window": "721h"}, "completion_window"),
        ({"completion_window": "1d"}, "completion_window"),
        ({"completion_window": 24}, "completion_window"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"input_file_id": "../../etc/passwd"}, "input_file_id"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds"),
    ],
)
def test_a_batch_that_cannot_be(gateway: Served, changes: dict[str, Any], param: str) -> None:
    with gateway.client() as client:
        made = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a", b"{}")}).json()["id"]
        body = {"input_file_id": made, "endpoint": CHAT, "completion_window": "24h", **changes}
        answer = client.post("/v1/batches", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert client.get("/v1/batches").json()["data"] == []


def test_unknown_fields_are_named(gateway: Served) -> None:
    with gateway.client() as client:
        made = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a", b"{}")}).json()["id"]
        body = {"input_file_id": made, "endpoint": CHAT, "completion_window": "1h", "color": "red"}
        assert client.post("/v1/batches", json=body).headers["x-llmserve-ignored-fields"] == "color"


@pytest.mark.parametrize(("query", "param"), [("limit=101", "limit"), ("limit=x", "limit"), ("after=none", "after")])
def test_a_list_that_cannot_be(gateway: Served, query: str, param: str) -> None:
    with httpx2.Client(base_url=f"http://{gateway.authority}", trust_env=False) as client:
        answer = client.get(f"/v1/batches?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
