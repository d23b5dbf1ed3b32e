"""The gateway's client against a scripted server."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from llmserve import errors
from llmserve.client import Finish, Gateway, Health, TextDelta, error_from_body
from llmserve.errors import LlmserveError
from tests.cli.fakes import DONE, DROP, HOLD, FakeGateway, answer, delta, event, finish, usage

REQUEST = {"model": "tiny:1b", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def client(gateway: FakeGateway) -> Gateway:
    return Gateway.tcp("127.0.0.1", gateway.port)


def tree(kind: type[LlmserveError]) -> list[type[LlmserveError]]:
    return [kind, *(descendant for child in kind.__subclasses__() for descendant in tree(child))]


def test_an_answer_is_its_text_then_one_finish(gateway: FakeGateway, client: Gateway) -> None:
    gateway.script = [[b": waiting\n\n", delta("Hel"), b": still\n\n", delta("lo"), finish(), usage(9, 2, 4), DONE]]
    with client:
        events = list(client.chat(REQUEST))
    assert events == [TextDelta("Hel"), TextDelta("lo"), Finish("stop", 9, 2, 4)]


def test_the_request_asks_for_a_stream_with_usage(gateway: FakeGateway, client: Gateway) -> None:
    gateway.script = [answer("x")]
    with client:
        list(client.chat(REQUEST))
    assert gateway.chats == [{**REQUEST, "stream": True, "stream_options": {"include_usage": True}}]


def test_the_speed_of_the_prompt_is_that_of_the_part_computed(gateway: FakeGateway, client: Gateway) -> None:
    timings = {"prompt_n": 30, "cache_n": 70, "prompt_ms": 60.0}
    gateway.script = [[delta("x"), finish(), event({"choices": [], "timings": timings}), DONE]]
    with client:
        *_, last = client.chat(REQUEST)
    assert last == Finish("stop", None, None, None, prompt_tokens_per_second=500.0)


def test_an_event_split_between_packets_is_whole(gateway: FakeGateway, client: Gateway) -> None:
    data = delta("ä") + finish() + DONE
    gateway.script = [[data[:1], *(data[i : i + 7] for i in range(1, len(data), 7))]]
    with client:
        assert next(client.chat(REQUEST)) == TextDelta("ä")


def test_an_error_event_is_raised_after_what_came_before(gateway: FakeGateway, client: Gateway) -> None:
    died = errors.WorkerDied("the worker ended", hint="try again")
    gateway.script = [[delta("Hel"), event(died.body())]]
    with client:
        events = client.chat(REQUEST)
        assert next(events) == TextDelta("Hel")
        with pytest.raises(errors.WorkerDied, match="the worker ended") as raised:
            next(events)
    assert raised.value.hint == "try again"


@pytest.mark.parametrize(
    "steps", [[delta("Hel"), DROP], [delta("Hel")], [delta("Hel"), finish()]], ids=["broken", "ended", "without [DONE]"]
)
def test_a_stream_that_stops_early_is_an_error(gateway: FakeGateway, client: Gateway, steps: list[bytes | str]) -> None:
    gateway.script = [steps]
    with client, pytest.raises(errors.Unavailable, match="broke before the answer was complete"):
        list(client.chat(REQUEST))


def test_closing_the_answer_hangs_up(gateway: FakeGateway, client: Gateway) -> None:
    gateway.script = [[delta("Hel"), HOLD]]
    with client:
        events = client.chat(REQUEST)
        next(events)
        events.close()
        assert gateway.cancelled.wait(10)


@pytest.mark.parametrize("kind", [kind for kind in tree(LlmserveError) if kind.__module__ == "llmserve.errors"])
def test_every_error_survives_the_journey(kind: type[LlmserveError]) -> None:
    sent = kind("it does not work (really)", param="model", hint="do something else")
    received = error_from_body(sent.body(), sent.status)
    assert (received.message, received.hint, received.param) == (sent.message, sent.hint, sent.param)
    assert (received.status, received.type, received.code) == (sent.status, sent.type, sent.code)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"error": {"message": "m", "code": "queue_full"}}, None, errors.TooManyRequests),
        ({"error": {"message": "m", "code": "context_length_exceeded"}}, 400, errors.ContextLengthExceeded),
        ({"error": {"message": "m", "code": "something_new"}}, 503, errors.Unavailable),
        ({"error": {"message": "m", "type": "invalid_request_error", "code": None}}, None, errors.InvalidRequest),
        ({"error": {"message": "m", "type": "invalid_request_error", "code": None}}, 418, errors.InvalidRequest),
        ({"error": "a plain text"}, 500, LlmserveError),
        ({}, 500, LlmserveError),
    ],
)
def test_the_class_follows_code_then_status_then_type(
    body: dict[str, object], status: int | None, kind: type[LlmserveError]
) -> None:
    assert type(error_from_body(body, status)) is kind


def test_an_error_answer_carries_the_servers_message(gateway: FakeGateway, client: Gateway) -> None:
    unknown = errors.ModelNotFound("there is no model `x`", param="model", hint="llmserve pull x")
    gateway.replies["/v1/chat/completions"] = (404, unknown.body())
    with client, pytest.raises(errors.ModelNotFound, match="there is no model `x`") as raised:
        list(client.chat(REQUEST))
    assert raised.value.hint == "llmserve pull x"


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b"[]", b"\xff"])
def test_an_error_answer_that_is_not_ours_says_its_status(gateway: FakeGateway, client: Gateway, body: bytes) -> None:
    gateway.replies["/admin/stop"] = (502, body)
    with client, pytest.raises(errors.WorkerDied, match="status 502"):
        client.stop("tiny")


@pytest.mark.parametrize("body", [b"not json", b"[]", b"{}"])
def test_an_answer_of_the_wrong_shape_is_an_error(gateway: FakeGateway, client: Gateway, body: bytes) -> None:
    gateway.replies["/admin/ps"] = (200, body)
    with client, pytest.raises(errors.Unavailable, match="the server's answer"):
        client.ps()


def test_health(gateway: FakeGateway, client: Gateway) -> None:
    gateway.replies["/health"] = (200, {"status": "ok", "service": "llmserve", "version": "9.9"})
    with client:
        assert client.health() == Health("llmserve", "9.9")


@pytest.mark.parametrize(
    "reply",
    [(200, {"status": "ok"}), (200, {"service": "other", "version": "1"}), (404, {}), (401, {}), (200, b"<html>")],
)
def test_another_program_is_not_taken_for_llmserve(
    gateway: FakeGateway, client: Gateway, reply: tuple[int, object]
) -> None:
    gateway.replies["/health"] = reply
    with client, pytest.raises(errors.Unavailable):
        client.health()


def test_nobody_listening_is_unavailable_with_the_command(no_gateway: int) -> None:
    with Gateway.tcp("127.0.0.1", no_gateway) as client, pytest.raises(errors.Unavailable) as raised:
        client.models()
    assert f"127.0.0.1:{no_gateway}" in raised.value.message
    assert raised.value.hint is not None
    assert "llmserve serve" in raised.value.hint


# httpcore2 leaves a socket to the garbage collector when it cannot connect it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_missing_socket_is_unavailable(tmp_path: Path) -> None:
    with Gateway.unix(tmp_path / "no.sock") as client, pytest.raises(errors.Unavailable, match=r"no\.sock"):
        client.health()
    gc.collect()


def test_a_server_that_never_answers_is_unavailable() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        Gateway.tcp("127.0.0.1", deaf.getsockname()[1]) as client,
        pytest.raises(errors.Unavailable, match="does not answer"),
    ):
        client.health(timeout=0.05)


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1:80"), ("::", "[::1]:80"), ("::1", "[::1]:80"), ("example.org", "example.org:80")],
)
def test_the_address_to_connect_to(host: str, address: str) -> None:
    with Gateway.tcp(host, 80) as client:
        assert client.address == address


def test_the_key_goes_with_every_request(gateway: FakeGateway) -> None:
    gateway.script = [answer("x")]
    calls: list[Callable[[Gateway], object]] = [
        Gateway.models,
        Gateway.ps,
        lambda client: client.load("tiny"),
        lambda client: client.stop("tiny"),
        lambda client: list(client.chat(REQUEST)),
    ]
    with Gateway.tcp("127.0.0.1", gateway.port, api_key="secret") as client:
        for call in calls:
            call(client)
    assert gateway.keys == ["Bearer secret"] * len(calls)


def test_a_proxy_from_the_environment_sees_nothing(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, no_gateway: int
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{no_gateway}")
    with Gateway.tcp("127.0.0.1", gateway.port) as client:
        assert client.models() == [{"id": "tiny:1b", "object": "model"}]


def test_load_and_stop_name_the_model(gateway: FakeGateway, client: Gateway) -> None:
    with client:
        client.load("tiny:1b")
        client.stop("tiny:1b")
    assert gateway.requests == [
        ("POST", "/admin/load", {"model": "tiny:1b"}),
        ("POST", "/admin/stop", {"model": "tiny:1b"}),
    ]
