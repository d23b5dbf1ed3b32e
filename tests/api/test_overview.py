"""What the page is made from: live figures, plans, problems, the catalog."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llmserve.api.gateway import Gateway
from llmserve.api.memory_use import MemoryUse, MemoryWatch
from llmserve.api.overview import Figures
from llmserve.api.problems import KEPT, Problems
from llmserve.errors import InvalidRequest, LlmserveError, TooManyRequests
from llmserve.fleet.worker_counters import WorkerCounters
from llmserve.hardware.failure import ProbeFailed
from llmserve.settings import Settings
from llmserve.store.catalog import Catalog, CatalogModel
from llmserve.types import GpuInfo, MemoryInfo
from tests.api.fakes import FakeFleet, FakeStore, Served, Worker, wait_until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
GPU = GpuInfo("cuda", 1, "Fake", None, (8, 6), None, 8000, 6000, None, None, False)


@pytest.fixture
def gateway(serve: Callable[..., Served]) -> Served:
    return serve()


def live(gateway: Served) -> dict[str, Any]:
    with gateway.client() as client:
        return dict(client.get("/admin/live").json())


# --- figures ---------------------------------------------------------------------------------------------------------


def test_figures_count_what_was_answered(gateway: Served) -> None:
    before = live(gateway)
    assert (before["requests"], before["tokens"], before["first_contents"]) == (0, 0, 0)
    with gateway.client() as client:
        client.post("/v1/chat/completions", json=CHAT)
        client.post("/v1/chat/completions", json={**CHAT, "stream": True, "stream_options": {"include_usage": True}})
        wait_until(lambda: live(gateway)["requests"] == 2)
    now = live(gateway)
    assert (now["in_flight"], now["waiting"], now["first_contents"]) == (0, 0, 1)
    assert now["tokens"] > 0
    assert now["first_content_seconds"] > 0
    assert now["time"] > before["time"]
    assert now["uptime_seconds"] > before["uptime_seconds"]


def test_figures_hold_the_models_and_the_memory(gateway: Served) -> None:
    figures = live(gateway)
    assert [model["name"] for model in figures["models"]] == ["tiny:1m"]
    ram = figures["memory"][0]
    assert ram["device"] == "ram"
    assert 0 < ram["available"] <= ram["total"]


def test_what_workers_count_is_seen_before_answers_end(gateway: Served) -> None:
    gateway.fleet.counted = (WorkerCounters("tiny:1m", 1, {"running": 3, "generated_tokens": 70}),)
    wait_until(lambda: live(gateway)["tokens"] == 70)
    assert live(gateway)["running"] == 3
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=CHAT).json()
    assert 0 < answer["usage"]["completion_tokens"] < 70
    wait_until(lambda: live(gateway)["requests"] == 1)
    assert live(gateway)["tokens"] == 70
    gateway.fleet.counted = (WorkerCounters("tiny:1m", 1, {"running": 0, "generated_tokens": 90}),)
    wait_until(lambda: live(gateway)["tokens"] == 90)
    with gateway.client() as client:
        assert 'llmserve_generated_tokens_total{model="tiny:1m"} 90.0' in client.get("/metrics").text


async def test_however_many_look_it_is_measured_once(worker: Worker) -> None:
    store = FakeStore()
    gateway = Gateway(FakeFleet(store, worker.socket), store, Settings())  # type: ignore[arg-type]
    door, measured = threading.Event(), 0

    def memory() -> tuple[MemoryUse, ...]:
        nonlocal measured
        measured += 1
        assert door.wait(20)
        return (MemoryUse("ram", 2, 1),)

    figures = Figures(gateway, memory)
    lookers = [asyncio.create_task(figures.latest()) for _ in range(50)]
    while not measured:  # noqa: ASYNC110 (in a thread)
        await asyncio.sleep(0.001)
    lookers[0].cancel()
    door.set()
    answers = await asyncio.gather(*lookers[1:])
    assert measured == 1
    assert all(answer["memory"] == [{"device": "ram", "total": 2, "available": 1}] for answer in answers)


class TestMemoryWatch:
    def watch(self, *gpus: GpuInfo) -> MemoryWatch:
        self.now, self.gpus, self.probes = 0.0, gpus, 0
        self.ram = MemoryInfo(100, 40, None)

        def probe() -> tuple[GpuInfo, ...]:
            self.probes += 1
            return self.gpus

        return MemoryWatch(lambda: self.ram, probe, lambda: self.now)

    def test_ram_is_read_each_time_and_gpus_now_and_then(self) -> None:
        watch = self.watch(GPU)
        assert watch() == (MemoryUse("ram", 100, 40), MemoryUse("cuda:1", 8000, 6000))
        self.ram = MemoryInfo(100, 30, None)
        self.gpus = (replace(GPU, free_memory=5000),)
        self.now = 9.0
        assert watch() == (MemoryUse("ram", 100, 30), MemoryUse("cuda:1", 8000, 6000))
        self.now = 11.0
        assert watch()[1] == MemoryUse("cuda:1", 8000, 5000)
        assert self.probes == 2

    def test_a_machine_without_gpus_is_probed_once(self) -> None:
        watch = self.watch()
        for self.now in (0.0, 100.0, 200.0):
            assert watch() == (MemoryUse("ram", 100, 40),)
        assert self.probes == 1

    def test_memory_that_is_shared_or_unknown_is_left_out(self) -> None:
        def unknown() -> MemoryInfo:
            raise ProbeFailed("the system does not tell")

        assert self.watch(replace(GPU, unified_memory=True))() == (MemoryUse("ram", 100, 40),)
        assert MemoryWatch(unknown, lambda: (GPU,))() == (MemoryUse("cuda:1", 8000, 6000),)


# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_is_shown_for_a_model_that_is_here(gateway: Served) -> None:
    with gateway.client() as client:
        shown = client.get("/admin/plan?model=tiny").json()
        assert (shown["model"], shown["plan"]["reason"]) == ("tiny", "a test")
        assert shown["changes"] == ["with more memory it would be faster"]
        assert client.get("/admin/plan?model=nope").status_code == 404
        for query in ("", "?model=", "?model=a&model=b", "?name=tiny"):
            answer = client.get(f"/admin/plan{query}")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")


# --- problems --------------------------------------------------------------------------------------------------------


def record(level: int, message: str, *arguments: object, name: str = "llmserve.fleet") -> logging.LogRecord:
    return logging.LogRecord(name, level, "file", 1, message, arguments, None)


def test_warnings_and_errors_are_kept_the_latest_first() -> None:
    problems = Problems()
    for level, text in ((logging.INFO, "fine"), (logging.WARNING, "hm"), (logging.ERROR, "bad")):
        if level >= problems.level:
            problems.handle(record(level, "%s", text))
    assert [(problem["level"], problem["message"]) for problem in problems.latest()] == [
        ("error", "bad"),
        ("warning", "hm"),
    ]


def test_what_is_repeated_drives_nothing_out() -> None:
    problems = Problems()
    problems.handle(record(logging.ERROR, "the first"))
    for _ in range(10 * KEPT):
        problems.refused("POST /x", InvalidRequest("again", hint="do it right"))
    again, first = problems.latest()
    assert (again["count"], again["status"], again["message"]) == (10 * KEPT, 400, "again (hint: do it right)")
    assert (first["message"], first["count"]) == ("the first", 1)
    assert again["time"] >= first["time"] > 1_700_000_000
    problems.handle(record(logging.ERROR, "the first"))
    assert [(problem["message"], problem["count"]) for problem in problems.latest()] == [
        ("the first", 2),
        ("again (hint: do it right)", 10 * KEPT),
    ]


def test_only_so_many_are_kept_and_none_is_endless() -> None:
    problems = Problems()
    for number in range(KEPT + 50):
        problems.handle(record(logging.ERROR, f"{number} " + "x\n\x1b" * 10_000))
    latest = problems.latest()
    assert len(latest) == KEPT
    assert latest[0]["message"].startswith(f"{KEPT + 49} x")
    assert all(len(problem["message"]) <= 1000 and problem["message"].isprintable() for problem in latest)


def test_the_text_of_an_exception_is_not_shown() -> None:
    problems = Problems()
    try:
        raise ValueError("a prompt")
    except ValueError as error:
        failed = record(logging.ERROR, "it failed")
        failed.exc_info = (type(error), error, error.__traceback__)
        problems.handle(failed)
    (problem,) = problems.latest()
    assert problem["message"] == "it failed (ValueError)"


def latest(gateway: Served) -> list[tuple[str, str, int | None]]:
    with gateway.client() as client:
        problems = client.get("/admin/problems").json()["problems"]
    return [(problem["where"], problem["message"], problem["status"]) for problem in problems]


def test_refused_requests_are_problems(gateway: Served) -> None:
    assert latest(gateway) == []
    with gateway.client() as client:
        client.post("/v1/chat/completions", json={"model": "nope", "messages": CHAT["messages"]})
        client.get("/v1/v1/models")
        client.get("/health")
        for path in ("/a", "/b", "/c"):
            client.request("PATCH", path, headers={"Host": "evil.test"})
    (host, unknown, missing) = latest(gateway)
    assert host == ("other", "this server does not answer to that Host (hint: add the name to `allowed_hosts`)", 403)
    assert unknown == ("GET /v1/v1/models", "there is no such route", 404)
    assert (missing[0], missing[2]) == ("POST /v1/chat/completions", 404)
    assert "nope" in missing[1]


@pytest.mark.parametrize("stream", [False, True])
def test_so_is_what_a_worker_refuses(gateway: Served, stream: bool) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": '{"status": 400}'}], "stream": stream}
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert latest(gateway) == [("POST /v1/chat/completions", answer.json()["error"]["message"], 400)]


def test_so_is_what_ends_a_stream(gateway: Served) -> None:
    gateway.fleet.door.clear()
    gateway.fleet.failure = TooManyRequests("the queue is full")
    with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer,
    ):
        gateway.fleet.door.set()
        assert "the queue is full" in b"".join(answer.iter_raw()).decode()
    assert latest(gateway) == [("POST /v1/chat/completions", "the queue is full", 429)]


def test_a_fault_of_the_program_is_told_by_the_log_alone(gateway: Served) -> None:
    gateway.fleet.failure = LlmserveError("a secret")
    with gateway.client() as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 500
    assert latest(gateway) == []


# --- the catalog -----------------------------------------------------------------------------------------------------


def test_the_catalog_names_what_can_be_pulled(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    model = CatalogModel("tiny:1m", ("tiny",), "MIT", "Tiny", ())
    monkeypatch.setattr(FakeStore, "catalog", Catalog((model,)))
    with gateway.client() as client:
        assert client.get("/admin/catalog").json()["models"] == [
            {"name": "tiny:1m", "aliases": ["tiny"], "description": "Tiny", "task": "chat", "license": "MIT"}
        ]
