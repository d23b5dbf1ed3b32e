"""From request to worker and back: streams, failures, waiting, hang-ups."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmserve.api.limits import Limits
from llmserve.errors import InsufficientStorage, TooManyRequests, Unavailable
from llmserve.openai.sse import DONE, KEEP_ALIVE, EventParser
from llmserve.settings import Settings
from tests.api.fakes import Served, Worker, read_answer, serving, wait_until, worker_process

CHAT = "/v1/chat/completions"


def chat(script: Any = "hello", **fields: Any) -> dict[str, Any]:
    """A chat request whose last message is `script` for the fake worker."""
    content = script if isinstance(script, str) else json.dumps(script)
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}


def events(body: bytes) -> list[Any]:
    """The JSON events of a stream; `[DONE]` stays a string."""
    return [data.decode() if data == b"[DONE]" else json.loads(data) for data in EventParser().feed(body)]


def text(body: bytes) -> str:
    choices = [choice for event in events(body) if isinstance(event, dict) for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.fixture
def gateway(open_gateway: Served) -> Iterator[Served]:
    yield open_gateway
    open_gateway.fleet.failure = None
    open_gateway.fleet.door.set()
    wait_until(lambda: not open_gateway.fleet.leases)


@pytest.fixture
def client(gateway: Served) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


def test_joined_stream_equals_the_whole_answer(client: httpx2.Client) -> None:
    script = {"tokens": ["Grüß", " dich", " 🌍", "\n\ndata: [DONE]\n\n", " end"]}
    whole = client.post(CHAT, json=chat(script))
    stream = client.post(CHAT, json=chat(script, stream=True))
    assert whole.status_code == stream.status_code == 200
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert text(stream.content) == whole.json()["choices"][0]["message"]["content"]
    assert stream.content.endswith(DONE)


def test_the_bytes_of_a_stream_are_the_workers_own(gateway: Served, client: httpx2.Client, worker: Worker) -> None:
    body = chat({"tokens": 40}, stream=True, max_tokens=40)
    headers = {"X-Request-Id": "same-bytes"}
    direct = worker.client.post(CHAT, json=body, headers=headers).content
    relayed = client.post(CHAT, json=body, headers=headers).content
    created = re.compile(rb'"created":[0-9]+')
    assert created.sub(b"", relayed) == created.sub(b"", direct)


def test_text_completions(client: httpx2.Client) -> None:
    answer = client.post("/v1/completions", json={"model": "tiny:1m", "prompt": "once"})
    assert answer.json()["choices"][0]["text"] == "Hello from the fake worker."


def test_events_need_no_message_each(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(send: object) -> None:
        raise AssertionError("the stream is written message by message")

    monkeypatch.setattr("llmserve.api.body_writer.MessageWriter", refuse)
    stream = client.post(CHAT, json=chat({"tokens": 20}, stream=True))
    assert stream.content.endswith(DONE)
    translated = client.post("/v1/messages", json={**chat(stream=True), "max_tokens": 5})
    assert "written message by message" not in translated.text
    assert translated.status_code == 500


@pytest.mark.parametrize("stream", [False, True])
def test_the_request_id_reaches_worker_and_client(client: httpx2.Client, stream: bool) -> None:
    answer = client.post(CHAT, json=chat(stream=stream), headers={"X-Request-Id": "my-id.1"})
    assert answer.headers["x-request-id"] == "my-id.1"
    first = events(answer.content)[0] if stream else answer.json()
    assert first["id"] == "my-id.1"


@pytest.mark.parametrize(
    ("settings", "limit"), [(Settings(), 4096), (Settings(max_output_tokens=7), 7)], ids=["default", "set"]
)
def test_a_request_without_limit_gets_the_servers(
    serve: Callable[..., Served], worker: Worker, settings: Settings, limit: int
) -> None:
    with serve(settings).client() as client:
        request_id = client.post(CHAT, json=chat()).headers["x-request-id"]
        own = client.post(CHAT, json=chat(max_completion_tokens=3)).headers["x-request-id"]
    assert worker.seen(request_id)[0]["max_tokens"] == limit
    assert worker.seen(own)[0]["max_tokens"] == 3


# --- failures before the first byte ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "retry_after"),
    [
        (TooManyRequests("full", retry_after=1.0), 429, "1"),
        (Unavailable("failed to load", retry_after=4.2), 503, "5"),
        (InsufficientStorage("no memory"), 507, None),
    ],
)
def test_a_fleets_refusal_is_a_status(
    gateway: Served, client: httpx2.Client, failure: Exception, status: int, retry_after: str | None, stream: bool
) -> None:
    gateway.fleet.failure = failure
    answer = client.post(CHAT, json=chat(stream=stream))
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
    assert answer.json()["error"]["message"] == str(failure)


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_404_with_the_way_to_get_it(client: httpx2.Client, stream: bool) -> None:
    answer = client.post(CHAT, json={**chat(stream=stream), "model": "nope"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert "llmserve pull nope" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_workers_own_refusal_passes_through(client: httpx2.Client, stream: bool) -> None:
    answer = client.post(CHAT, json=chat({"status": 400}, stream=stream))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "scripted refusal"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [{"status": 500}, {"garbage_at": 0}], ids=["status 500", "garbage"])
def test_a_faulty_worker_is_502_without_its_words(client: httpx2.Client, script: dict[str, Any], stream: bool) -> None:
    answer = client.post(CHAT, json=chat(script, stream=stream))
    assert answer.status_code == 502
    assert "scripted" not in answer.text
    assert "protocol" not in answer.json()["error"]["message"]


# --- failures in a started stream ------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [{"error_at": 2}, {"garbage_at": 2}], ids=["error event", "garbage"])
def test_a_failure_in_a_stream_is_one_error_event_and_no_done(
    client: httpx2.Client, script: dict[str, Any], tmp_path: Path
) -> None:
    gate = tmp_path / "go"
    script = {"tokens": 9, "gate": str(gate), "gate_at": 2, **script}
    with client.stream("POST", CHAT, json=chat(script, stream=True)) as answer:
        received = b""
        for piece in answer.iter_raw():
            received += piece
            if b"t1 " in received:
                gate.touch()
    *good, last = events(received)
    assert "".join(choice["delta"].get("content") or "" for event in good for choice in event["choices"]) == "t0 t1 "
    assert set(last) == {"error"}
    assert b"[DONE]" not in received


def test_a_failed_load_after_the_stream_started_is_an_error_event(gateway: Served, client: httpx2.Client) -> None:
    gateway.fleet.door.clear()
    gateway.fleet.failure = Unavailable("failed to load")
    with client.stream("POST", CHAT, json=chat(stream=True)) as answer:
        assert answer.status_code == 200
        gateway.fleet.door.set()
        assert events(answer.read())[-1]["error"]["message"] == "failed to load"


def test_a_workers_refusal_after_the_stream_started_is_an_error_event(gateway: Served, client: httpx2.Client) -> None:
    gateway.fleet.door.clear()
    with client.stream("POST", CHAT, json=chat({"status": 400}, stream=True)) as answer:
        assert answer.status_code == 200
        gateway.fleet.door.set()
        assert events(answer.read())[-1]["error"]["message"] == "scripted refusal"


def test_comments_keep_a_waiting_stream_alive(gateway: Served, client: httpx2.Client) -> None:
    gateway.fleet.door.clear()
    with client.stream("POST", CHAT, json=chat(stream=True)) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == KEEP_ALIVE
        assert next(pieces) == KEEP_ALIVE
        gateway.fleet.door.set()
        rest = b"".join(pieces)
    assert text(rest) == "Hello from the fake worker."
    assert rest.endswith(DONE)


def test_comments_keep_a_silent_stream_alive_between_events(client: httpx2.Client, tmp_path: Path) -> None:
    gate = tmp_path / "go"
    script = {"gate": str(gate), "gate_at": 2}
    with client.stream("POST", CHAT, json=chat(script, stream=True)) as answer:
        received = b""
        for piece in answer.iter_raw():
            received += piece
            if KEEP_ALIVE in received:
                gate.touch()
    assert text(received) == "Hello from the fake worker."


@pytest.mark.parametrize("stream", [False, True])
def test_a_silent_worker_meets_the_deadline(serve: Callable[..., Served], stream: bool) -> None:
    limits = Limits(first_byte_seconds=0.2, answer_seconds=0.2)
    with serve(limits=limits).client() as client:
        answer = client.post(CHAT, json=chat({"hang_at": 0, "tokens": 1, "first_delay": 30}, stream=stream))
    # The worker's role event comes at once, so a stream has started.
    error = events(answer.content)[-1]["error"] if stream else answer.json()["error"]
    assert answer.status_code == (200 if stream else 504)
    assert error["code"] == "deadline_exceeded"


# --- a worker's death ------------------------------------------------------------------------------------------------


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Served]:
    """A gateway whose worker may be killed."""
    with worker_process(tmp_path) as worker, serving(worker) as served:
        yield served


def test_kill_9_in_a_stream_is_one_error_event(mortal: Served) -> None:
    with mortal.client() as client, client.stream("POST", CHAT, json=chat({"hang_at": 3}, stream=True)) as answer:
        received = b""
        for piece in answer.iter_raw():
            received += piece
            if b" the" in received and mortal.worker.process.poll() is None:
                mortal.worker.process.kill()
                mortal.worker.process.wait()
    errors = [event for event in events(received) if "error" in event]
    assert [event["error"]["code"] for event in errors] == ["worker_died"]
    assert events(received)[-1] == errors[0]
    assert b"[DONE]" not in received
    wait_until(lambda: not mortal.fleet.leases)


def test_kill_9_before_the_first_byte_is_502(mortal: Served) -> None:
    with mortal.client() as client:
        answer = client.post(CHAT, json=chat({"die_at": 0}))
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "worker_died"
    assert "SIGKILL" in answer.json()["error"]["message"]
    wait_until(lambda: not mortal.fleet.leases)


def test_a_dead_worker_is_502_for_the_next_request(mortal: Served) -> None:
    with mortal.client() as client:
        assert client.post(CHAT, json=chat()).status_code == 200
        mortal.worker.process.kill()
        mortal.worker.process.wait()
        answers = [client.post(CHAT, json=chat(stream=stream)) for stream in (False, True)]
    assert [answer.status_code for answer in answers] == [502, 502]


# --- hang-ups --------------------------------------------------------------------------------------------------------


def post(gateway: Served, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return gateway.head("POST", CHAT, "Content-Type: application/json", f"Content-Length: {len(data)}") + data


def test_a_hang_up_while_streaming_cancels_the_worker(gateway: Served, worker: Worker) -> None:
    before = worker.stats()["cancelled"]
    with gateway.client() as client, client.stream("POST", CHAT, json=chat({"hang_at": 1}, stream=True)) as answer:
        next(answer.iter_raw())
    wait_until(lambda: worker.stats()["cancelled"] == before + 1)
    wait_until(lambda: not gateway.fleet.leases)


@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_before_the_first_token_cancels_the_worker(gateway: Served, worker: Worker, stream: bool) -> None:
    before = worker.stats()
    with gateway.connect() as connection:
        connection.sendall(post(gateway, chat({"hang_at": 0}, stream=stream)))
        wait_until(lambda: worker.stats()["running"] == before["running"] + 1)
    wait_until(lambda: worker.stats()["cancelled"] == before["cancelled"] + 1)
    wait_until(lambda: not gateway.fleet.leases)


@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_while_waiting_for_the_model_leaves_the_queue(gateway: Served, worker: Worker, stream: bool) -> None:
    started = worker.count()
    gateway.fleet.door.clear()
    with gateway.connect() as connection:
        connection.sendall(post(gateway, chat(stream=stream)))
        wait_until(lambda: gateway.fleet.waiting == 1)
    wait_until(lambda: gateway.fleet.waiting == 0)
    gateway.fleet.door.set()
    assert worker.count() == started


def test_a_pipelined_request_does_not_hide_a_hang_up(gateway: Served, worker: Worker) -> None:
    before = worker.stats()["cancelled"]
    with gateway.connect() as connection:
        connection.sendall(post(gateway, chat({"hang_at": 0})))
        wait_until(lambda: worker.stats()["running"] == 1)
        connection.sendall(post(gateway, chat()))
    wait_until(lambda: worker.stats()["cancelled"] == before + 1)


def test_a_client_that_reads_nothing_is_cut_off(serve: Callable[..., Served], worker: Worker) -> None:
    before = worker.stats()["cancelled"]
    gateway = serve(limits=Limits(send_stall_seconds=0.2))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((gateway.host, gateway.port))
        # More than the kernel's buffers hold.
        connection.sendall(post(gateway, chat({"tokens": ["x" * 20000] * 400, "delay": 0.001}, stream=True)))
        wait_until(lambda: worker.stats()["cancelled"] == before + 1)
    wait_until(lambda: not gateway.fleet.leases)


def test_one_connection_serves_many_requests(gateway: Served) -> None:
    with gateway.connect() as connection:
        for stream in (False, True, False):
            connection.sendall(post(gateway, chat(stream=stream)))
            answer = read_answer(connection)
            assert answer.status == 200
            assert b" worker" in answer.body
