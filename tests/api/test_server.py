"""`serve` as a process: its start, its address, its signals, its size."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from llmserve.api import listener
from llmserve.errors import StartupFailed
from llmserve.settings import Settings
from tests.api.fakes import wait_until

# A gateway with a real fleet whose one model is played by the fake worker.
PROGRAM = """
import json, os, sys
from dataclasses import replace
from llmserve.api import server
from llmserve.fleet import fleet, launcher, loading
from llmserve.settings import load_settings
from llmserve.store import serving
from tests.api.fakes import FakeStore, MODEL, PLAN
from tests.fake_worker import fake_command
from tests.fleet.fakes import GIB, FakeMachine

def launch(*arguments):
    return replace(fake_command(*arguments), environment={"FAKE_WORKER": os.environ.get("FAKE_WORKER", "{}")})

class Fleet(fleet.Fleet):
    def __init__(self, store, settings):
        workers = launcher.Launcher(settings, launch)
        super().__init__(store, settings, launcher=workers, machine=FakeMachine(8 * GIB))

loading.make_plan = lambda *_: PLAN
fleet.Fleet, serving.serving_store = Fleet, lambda settings: FakeStore()
server.DRAIN_SECONDS = float(os.environ.get("TEST_DRAIN_SECONDS", "30"))
sys.exit(server.serve(load_settings(), json.loads(sys.argv[1])))
"""


class Process:
    """The gateway's process and its standard error, which ends up in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def url(self) -> str:
        found: list[str] = []
        wait_until(lambda: found.extend(re.findall("llmserve listens on (.*)", self.said)) or found or self.ended)
        assert found, self.said
        return found[0]

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, trust_env=False, timeout=20)

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def start(*models: str, **environment: str) -> Process:
        log = tmp_path / f"stderr-{len(processes)}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, json.dumps(models)],
                stderr=file,
                env={**os.environ, "LLMSERVE_PORT": "0", **environment},
            )
        processes.append(Process(process, log))
        return processes[-1]

    yield start
    for one in processes:
        one.process.kill()
        one.process.wait()


def chat(script: dict[str, object], **fields: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [{"role": "user", "content": json.dumps(script)}], **fields}


# --- start -----------------------------------------------------------------------------------------------------------


def test_a_start_preloads_answers_and_ends_cleanly(start: Callable[..., Process]) -> None:
    gateway = start("tiny")
    with gateway.client() as client:
        assert client.get("/health").json()["service"] == "llmserve"
        wait_until(lambda: client.get("/ready").status_code == 200)
        (worker,) = gateway.workers()
        answer = client.post("/v1/chat/completions", json=chat({"tokens": ["a"]}))
        assert answer.json()["choices"][0]["message"]["content"] == "a"
        memory_mib = psutil.Process(gateway.process.pid).memory_info().rss / 2**20
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(20) == 0
    assert not worker.is_running()
    assert memory_mib < 120
    assert "Traceback" not in gateway.said


def test_a_stream_tells_how_far_the_load_is_until_it_is_done(start: Callable[..., Process], tmp_path: Path) -> None:
    go = tmp_path / "go"
    gateway = start(FAKE_WORKER=json.dumps({"progress": 0.4, "ready_when": str(go)}))
    headers = {"X-LLMServe-Load-Status": "events"}
    told: list[dict[str, object]] = []
    said = ""
    with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=chat({}, stream=True), headers=headers) as answer,
    ):
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                if "event" in chunk:
                    told.append(chunk["event"]["data"])
                    assert not said
                else:
                    said += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            if "40%" in line:
                go.touch()
    assert re.fullmatch(r"tiny: loading weights, 40%, \d+ s", str(told[-2]["description"]))
    assert [one["done"] for one in told] == [False] * (len(told) - 1) + [True]
    assert said == "Hello from the fake worker."


def test_the_gateway_imports_no_engine_and_nothing_of_the_command_line() -> None:
    code = (
        "import json, sys, llmserve.api.server, llmserve.fleet.fleet, llmserve.store.store;"
        "print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    heavy = {"huggingface_hub", "numpy", "llama_cpp", "rich", "prompt_toolkit", "gguf", "llguidance", "torch", "jinja2"}
    assert not heavy & set(json.loads(modules))


def test_only_the_address_is_open(start: Callable[..., Process]) -> None:
    gateway = start()
    port = int(gateway.url.rpartition(":")[2])
    listening = [c.laddr for c in psutil.Process(gateway.process.pid).net_connections() if c.status == "LISTEN"]
    assert listening == [("127.0.0.1", port)]


# --- the address -----------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line_with_a_hint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            StartupFailed, match=rf"^cannot listen on 127\.0\.0\.1:{port}: address already in use$"
        ) as caught:
            listener.bind(Settings(port=port))
    assert caught.value.exit_code == 71
    assert "--port" in str(caught.value.hint)


@pytest.mark.parametrize("host", ["192.0.2.1", "does-not-exist.invalid"])
def test_an_address_of_another_machine_cannot_be_bound(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*arguments: object, **options: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    if host.endswith(".invalid"):
        monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(StartupFailed, match="cannot listen on"):
        listener.bind(Settings(host=host, port=0))


def test_connections_send_small_answers_at_once() -> None:
    with listener.bind(Settings(port=0)) as bound:
        # What asyncio looks at before it switches Nagle's algorithm off.
        assert bound.proto == socket.IPPROTO_TCP
        assert listener.shown_address(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_a_unix_socket_is_private_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with listener.bound(Settings(uds=path)) as bound:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert listener.shown_address(bound) == f"unix:{path}"
    assert not path.exists()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    listener.bind(Settings(uds=path)).close()
    assert path.exists()
    with listener.bound(Settings(uds=path)):
        with pytest.raises(StartupFailed, match="in use"):
            listener.bind(Settings(uds=path))
        assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(StartupFailed):
        listener.bind(Settings(uds=path))
    assert path.read_text() == "data"


@pytest.mark.parametrize("path", ["/nonexistent/x.sock", "/" + "x" * 200])
def test_an_impossible_socket_path_is_one_line(path: str) -> None:
    with pytest.raises(StartupFailed, match="cannot listen on"):
        listener.bind(Settings(uds=Path(path)))


def test_serving_on_a_unix_socket(start: Callable[..., Process], tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    gateway = start(LLMSERVE_UDS=str(path))
    assert gateway.url == f"unix:{path}"
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        assert client.get("/health").status_code == 200
    gateway.process.send_signal(signal.SIGINT)
    assert gateway.process.wait(20) == 0
    assert not path.exists()


# --- signals ---------------------------------------------------------------------------------------------------------


@contextmanager
def streaming(gateway: Process, script: dict[str, object]) -> Iterator[Iterator[bytes]]:
    """The pieces of a streamed answer that has begun."""
    body = chat(script, stream=True)
    with gateway.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_raw()
        assert b'"role":"assistant"' in next(pieces)
        yield pieces


def test_sigterm_lets_a_stream_end_and_takes_nothing_new(start: Callable[..., Process], tmp_path: Path) -> None:
    gateway = start()
    gate = tmp_path / "go"
    with streaming(gateway, {"tokens": ["a", "b"], "gate": str(gate), "gate_at": 1}) as pieces:
        gateway.process.send_signal(signal.SIGTERM)
        with gateway.client() as other:
            wait_until(lambda: other.get("/health").status_code == 503)
            assert other.post("/v1/chat/completions", json=chat({})).status_code == 503
        assert not gateway.ended
        gate.touch()
        assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
    assert gateway.process.wait(20) == 0


def test_the_drain_ends_with_an_error_event(start: Callable[..., Process]) -> None:
    gateway = start(TEST_DRAIN_SECONDS="0.1")
    with streaming(gateway, {"hang_at": 1}) as pieces:
        gateway.process.send_signal(signal.SIGTERM)
        rest = b"".join(pieces)
    assert rest.count(b'"error"') == 1
    assert b"shut down" in rest
    assert b"[DONE]" not in rest
    assert gateway.process.wait(20) == 0


def test_a_second_sigterm_ends_at_once(start: Callable[..., Process]) -> None:
    gateway = start()
    with streaming(gateway, {"hang_at": 0}) as pieces:
        (worker,) = gateway.workers()
        gateway.process.send_signal(signal.SIGTERM)
        with gateway.client() as other:
            wait_until(lambda: other.get("/health").status_code == 503)
        gateway.process.send_signal(signal.SIGTERM)
        rest = b""
        with suppress(httpx2.TransportError):
            for piece in pieces:
                rest += piece
        assert b"[DONE]" not in rest
    assert gateway.process.wait(20) == 128 + signal.SIGTERM
    assert not worker.is_running()


def test_kill_9_of_the_worker_is_survived(start: Callable[..., Process]) -> None:
    gateway = start()
    with gateway.client() as client:
        with client.stream("POST", "/v1/chat/completions", json=chat({"hang_at": 1}, stream=True)) as answer:
            pieces = answer.iter_raw()
            received = next(pieces)
            (worker,) = gateway.workers()
            worker.kill()
            received += b"".join(pieces)
        assert b'"code":"worker_died"' in received
        assert b"SIGKILL" in received
        assert b"[DONE]" not in received
        again = client.post("/v1/chat/completions", json=chat({"tokens": ["new"]}))
        assert again.json()["choices"][0]["message"]["content"] == "new"
        problems = client.get("/admin/problems").json()["problems"]
        assert {"llmserve.fleet.record", "POST /v1/chat/completions"} == {problem["where"] for problem in problems}
    assert gateway.workers()[0].pid != worker.pid
    assert not gateway.ended
