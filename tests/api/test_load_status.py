"""What a stream tells of a load, to clients that ask for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from llmserve.api.gateway import Gateway
from llmserve.api.load_status import describe
from llmserve.errors import Unavailable
from llmserve.openai.sse import DONE, EventParser
from llmserve.settings import Settings
from llmserve.store.catalog import Catalog, CatalogModel, Variant
from llmserve.store.store import Store
from tests.api.fakes import MODEL, Served, wait_until

CHAT = "/v1/chat/completions"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": True}
LOADING = {"state": "loading", "progress": 0.25, "loaded_seconds": None}


@pytest.fixture
def gateway(open_gateway: Served) -> Iterator[Served]:
    """It loads, until `door` is set."""
    fleet = open_gateway.fleet
    fleet.shown = dict(LOADING)
    fleet.door.clear()
    yield open_gateway
    fleet.failure, fleet.shown = None, {}
    fleet.door.set()
    wait_until(lambda: not fleet.leases)


def client_of(gateway: Served, form: str) -> httpx2.Client:
    return gateway.client(**{"X-LLMServe-Load-Status": form})


def chunks(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(data) for data in EventParser().feed(body) if data != b"[DONE]"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (LOADING, "loading weights, 25%, 7 s"),
        ({**LOADING, "progress": None}, "starting the worker, 7 s"),
        ({**LOADING, "progress": 1.0}, "warming up, 7 s"),
        ({**LOADING, "progress": 0.5, "phase": "compiling, 3 s"}, "loading, compiling, 3 s"),
        ({**LOADING, "progress": None, "pid": None}, "queued, 7 s"),
        ({"state": "stopping"}, "queued, 7 s"),
        ({"state": "ready"}, "queued"),
        ({"state": "ready", "wait_seconds": 12.4}, "queued, about 12 s to go"),
    ],
)
def test_a_state_in_words(open_gateway: Served, changes: dict[str, Any], says: str) -> None:
    (status,) = open_gateway.fleet.status()
    assert describe(replace(status, **changes), 7.2) == says


def test_a_model_that_nobody_knows_of_yet_is_queued() -> None:
    assert describe(None, 0.6) == "queued, 1 s"


def test_comments_say_what_changes_and_no_parser_sees_them(gateway: Served) -> None:
    with client_of(gateway, "comments") as client, client.stream("POST", CHAT, json=ASKED) as answer:
        received = b""
        for piece in answer.iter_raw():
            received += piece
            if b": tiny: loading weights, 25%, " in received:
                gateway.fleet.shown = {**LOADING, "progress": 0.75}
            if b": tiny: loading weights, 75%, " in received:
                gateway.fleet.door.set()
    assert received.index(b" 25%") < received.index(b" 75%") < received.index(b"Hello")
    assert all("event" not in chunk for chunk in chunks(received))
    assert received.endswith(DONE)


def test_events_are_chunks_without_a_choice_that_end_before_the_answer(gateway: Served) -> None:
    with client_of(gateway, "events") as client, client.stream("POST", CHAT, json=ASKED) as answer:
        received = b""
        for piece in answer.iter_raw():
            received += piece
            if b" 25%" in received:
                gateway.fleet.door.set()
    told = [chunk for chunk in chunks(received) if "event" in chunk]
    assert [chunk for chunk in chunks(received)[: len(told)] if "event" not in chunk] == []
    first, *_, last = told
    assert (first["id"], first["object"], first["model"]) == (
        *(answer.headers["x-request-id"], "chat.completion.chunk"),
        "tiny",
    )
    assert all(chunk["choices"] == [] for chunk in told)
    assert first["event"]["type"] == "status"
    assert first["event"]["data"]["description"].startswith("tiny: loading weights, 25%, ")
    assert (first["event"]["data"]["done"], first["event"]["data"]["hidden"]) == (False, False)
    assert (last["event"]["data"]["done"], last["event"]["data"]["hidden"]) == (True, True)


def test_the_official_client_reads_over_events(gateway: Served) -> None:
    headers = {"X-LLMServe-Load-Status": "events"}
    with openai.OpenAI(base_url=f"http://{gateway.authority}/v1", api_key="unused", default_headers=headers) as client:
        fields: dict[str, Any] = {key: value for key, value in ASKED.items() if key != "stream"}
        with client.chat.completions.stream(**fields) as stream:
            told = 0
            for event in stream:
                if event.type == "chunk" and not event.chunk.choices:
                    told += 1
                    gateway.fleet.door.set()
            final = stream.get_final_completion()
    assert told >= 2
    assert final.choices[0].message.content == "Hello from the fake worker."


def test_events_end_where_the_load_fails(gateway: Served) -> None:
    gateway.fleet.failure = Unavailable("failed to load")
    with client_of(gateway, "events") as client, client.stream("POST", CHAT, json=ASKED) as answer:
        received = b""
        for piece in answer.iter_raw():
            received += piece
            if b" 25%" in received:
                gateway.fleet.door.set()
    *_, ended, failed = chunks(received)
    assert ended["event"]["data"]["done"] is True
    assert failed["error"]["message"] == "failed to load"


@pytest.mark.parametrize("form", ["off", None])
def test_nothing_is_told_unasked(gateway: Served, form: str | None) -> None:
    client = gateway.client() if form is None else client_of(gateway, form)
    with client, client.stream("POST", CHAT, json=ASKED) as answer:
        pieces = answer.iter_raw()
        first = next(pieces)  # a keep-alive, after which it goes on to wait
        gateway.fleet.door.set()
        received = first + b"".join(pieces)
    assert b"loading" not in received
    assert b'"event"' not in received


def test_other_dialects_are_not_told(gateway: Served) -> None:
    body = {**ASKED, "max_tokens": 9}
    with client_of(gateway, "events") as client, client.stream("POST", "/v1/messages", json=body) as answer:
        pieces = answer.iter_raw()
        first = next(pieces)
        gateway.fleet.door.set()
        received = first + b"".join(pieces)
    assert first == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert b"loading" not in received


def test_a_ready_model_tells_nothing(gateway: Served) -> None:
    gateway.fleet.shown = {}
    gateway.fleet.door.set()
    with client_of(gateway, "events") as client:
        assert b'"event"' not in client.post(CHAT, json=ASKED).content


def test_another_value_is_refused_by_name(gateway: Served) -> None:
    with client_of(gateway, "loud") as client:
        answer = client.post(CHAT, json=ASKED)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-LLMServe-Load-Status")


@pytest.mark.parametrize("name", [MODEL.name, *MODEL.aliases])
def test_keep_alives_name_the_phase_of_a_load_whatever_the_model_is_called(gateway: Served, name: str) -> None:
    gateway.fleet.shown = {**LOADING, "phase": "compiling, 3 s"}
    with gateway.client() as client, client.stream("POST", CHAT, json={**ASKED, "model": name}) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b": loading: compiling, 3 s\n\n"
        gateway.fleet.door.set()
        assert b"".join(pieces).endswith(DONE)


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ("copied", "copied:latest"),
        ("copied:latest", "copied:latest"),
        ("copied@polite", "copied:latest"),
        ("big", "big:1b"),
        ("big-q4_0", "big:1b-q4_0"),
        ("hf:owner/repo:file.gguf", "hf:owner/repo:file.gguf"),
        ("no name", "no name"),
    ],
)
def test_the_fleet_knows_a_model_by_its_own_name(open_gateway: Served, tmp_path: Path, asked: str, known: str) -> None:
    variant = Variant("gguf", "Q4_0", "hf:o/r", "model.gguf", None, None)
    store = Store(tmp_path, catalog=Catalog((CatalogModel("big:1b", ("big",), None, "", (variant,)),)))
    assert Gateway(open_gateway.fleet, store, Settings()).own_name(asked) == known


def test_anthropic_pings_while_a_load_names_its_phase(gateway: Served) -> None:
    gateway.fleet.shown = {**LOADING, "phase": "compiling, 3 s"}
    body = {**ASKED, "max_tokens": 9}
    with gateway.client() as client, client.stream("POST", "/v1/messages", json=body) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b'event: ping\ndata: {"type":"ping"}\n\n'
        gateway.fleet.door.set()
        assert b"compiling" not in b"".join(pieces)
