"""`ps`, `stop`, `serve`: the server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmserve.errors import ModelNotFound
from llmserve.fleet.status import ModelStatus
from llmserve.settings import Settings
from llmserve.types import DeviceMemory, EnginePlan, from_json, to_json
from tests.cli.conftest import Invoke
from tests.cli.fakes import FakeGateway, FakeStore, installed

PLAN = EnginePlan(
    engine="llama.cpp",
    devices=("cpu",),
    gpu_layers=0,
    total_layers=31,
    context=2048,
    parallel=4,
    kv_cells=8192,
    kv_type="f16",
    threads=2,
    wait_policy="passive",
    batch=512,
    micro_batch=512,
    flash_attention=False,
    memory=(DeviceMemory("ram", 90 * 1024**2, 180 * 1024**2, 20 * 1024**2, 10 * 1024**2, None),),
    fits=True,
    reason="there is only a CPU",
    refused=(),
)
READY = ModelStatus(
    name="tiny:1b",
    state="ready",
    progress=None,
    pid=4711,
    plan=PLAN,
    leases=2,
    waiting=0,
    loaded_seconds=12.5,
    idle_seconds=None,
    unload_in_seconds=None,
    retry_in_seconds=None,
    restarts=0,
    last_error=None,
    log_tail=None,
)
LOADING = dataclasses.replace(READY, name="big:70b", state="loading", progress=0.4, plan=None, leases=0, waiting=3)
IDLE = dataclasses.replace(READY, name="idle:1b", leases=0, idle_seconds=20.0, unload_in_seconds=280.0)
FAILED = dataclasses.replace(READY, name="bad:1b", state="failed", last_error="the worker ended\x1b[2J")


def running(gateway: FakeGateway, *models: ModelStatus) -> None:
    gateway.replies["/admin/ps"] = (200, {"models": [json.loads(to_json(model)) for model in models]})


# --- ps ---


def test_ps(invoke: Invoke, gateway: FakeGateway) -> None:
    running(gateway, READY, LOADING, IDLE)
    result = invoke("ps")
    header, ready, loading, idle = result.out.splitlines()
    assert header.split()[:3] == ["NAME", "STATE", "ENGINE"]
    assert ready.split() == ["tiny:1b", "ready", "llama.cpp", "cpu", "300", "MiB", "2048", "2", "0"]
    assert loading.split() == ["big:70b", "loading", "40%", "0", "3"]
    assert idle.endswith("in 280 s")
    assert result.err == ""


def test_ps_tells_how_fast_a_model_writes(invoke: Invoke, gateway: FakeGateway) -> None:
    running(gateway, dataclasses.replace(READY, tokens_per_second=131.26), IDLE)
    header, busy, idle = invoke("ps").out.splitlines()
    column = header.index("TOKENS/S")
    assert busy[column:].split() == ["131.3"]
    assert idle[column:].split() == ["in", "280", "s"]


def test_ps_tells_what_failed(invoke: Invoke, gateway: FakeGateway) -> None:
    running(gateway, FAILED)
    assert invoke("ps").err == "warning: bad:1b: the worker ended[2J\n"


def test_ps_tells_who_waits_how_long_and_what_runs_otherwise(invoke: Invoke, gateway: FakeGateway) -> None:
    busy = dataclasses.replace(
        READY, waiting=3, wait_seconds=4.2, pinned=True, unload_in_seconds=None, fallback="cpu: no GPU"
    )
    running(gateway, busy)
    result = invoke("ps")
    assert "3 (about 4 s)" in result.out
    assert "pinned" in result.out
    assert result.err == f"warning: {READY.name} runs on cpu: no GPU\n"


def test_ps_as_json(invoke: Invoke, gateway: FakeGateway) -> None:
    running(gateway, READY, LOADING)
    assert from_json(tuple[ModelStatus, ...], invoke("ps", "--json").out) == (READY, LOADING)


def test_ps_of_nothing(invoke: Invoke, gateway: FakeGateway) -> None:
    result = invoke("ps")
    assert (result.code, result.out, result.err) == (0, "", "no model is loaded\n")
    assert json.loads(invoke("ps", "--json").out) == []


def test_ps_of_a_server_that_speaks_otherwise(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.replies["/admin/ps"] = (200, {"models": [{"name": "tiny"}]})
    result = invoke("ps")
    assert result.code == 1
    assert "not understood" in result.err


@pytest.mark.parametrize("arguments", [("ps",), ("ps", "--json"), ("stop", "tiny")])
def test_no_server_is_an_error_with_the_command(invoke: Invoke, no_gateway: int, arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"error: no llmserve server at 127.0.0.1:{no_gateway}\n\nhint: start one with `llmserve serve`\n"
    )


# --- stop ---


@pytest.mark.parametrize(("stopped", "message"), [(True, "stopped tiny:1b\n"), (False, "tiny:1b was not loaded\n")])
def test_stop(invoke: Invoke, gateway: FakeGateway, stopped: bool, message: str) -> None:
    gateway.replies["/admin/stop"] = (200, {"model": "tiny:1b", "stopped": stopped})
    result = invoke("stop", "tiny:1b")
    assert (result.code, result.out, result.err) == (0, "", message)
    assert gateway.requests[-1] == ("POST", "/admin/stop", {"model": "tiny:1b"})


def test_stop_by_path(invoke: Invoke, gateway: FakeGateway, store: FakeStore, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    store.models["mine:local"] = installed("mine:local", path=str(file))
    assert invoke("stop", str(file)).code == 0
    assert gateway.requests[-1] == ("POST", "/admin/stop", {"model": "mine:local"})


def test_stop_of_an_unknown_model(invoke: Invoke, gateway: FakeGateway) -> None:
    gateway.replies["/admin/stop"] = (404, ModelNotFound("there is no model `x`", hint="llmserve pull x").body())
    result = invoke("stop", "x")
    assert (result.code, result.err) == (1, "error: there is no model `x`\n\nhint: llmserve pull x\n")


# --- serve ---


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, tuple[str, ...]]]:
    """What `serve` was called with; it returns the exit code 3 at once."""
    calls: list[tuple[Settings, tuple[str, ...]]] = []

    def serve(settings: Settings, models: Sequence[str], *, resumes_batches: bool) -> int:
        assert resumes_batches
        calls.append((settings, tuple(models)))
        return 3

    monkeypatch.setattr("llmserve.api.server.serve", serve)
    return calls


def test_every_flag_is_a_setting(
    invoke: Invoke, served: list[tuple[Settings, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLMSERVE_PORT", "1")
    flags = {
        "--host": "127.0.0.2",
        "--port": "4000",
        "--uds": str(tmp_path / "s.sock"),
        "--context": "4096",
        "--parallel": "3",
        "--threads": "2",
        "--kv-type": "q8_0",
        "--gpu-layers": "7",
        "--keep-alive": "-1",
        "--max-output-tokens": "99",
    }
    lists = ("--allowed-host", "a", "--allowed-host", "b", "--allowed-origin", "https://c")
    result = invoke("serve", *(word for pair in flags.items() for word in pair), *lists, "--strict", "--no-page")
    ((settings, models),) = served
    assert (result.code, models) == (3, ())
    assert settings == dataclasses.replace(
        settings,
        host="127.0.0.2",
        port=4000,
        uds=tmp_path / "s.sock",
        context=4096,
        parallel=3,
        threads=2,
        kv_type="q8_0",
        gpu_layers=7,
        keep_alive=-1.0,
        max_output_tokens=99,
        allowed_hosts=("a", "b"),
        allowed_origins=("https://c",),
        strict=True,
        page=False,
        insecure_no_auth=None,
    )


def test_a_flag_that_is_not_given_leaves_the_environment_alone(
    invoke: Invoke, served: list[tuple[Settings, tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSERVE_STRICT", "true")
    monkeypatch.setenv("LLMSERVE_ALLOWED_HOSTS", "example.org")
    invoke("serve")
    assert served[0][0].strict is True
    assert served[0][0].page is None
    assert served[0][0].allowed_hosts == ("example.org",)


def test_a_value_out_of_range_names_the_flag(invoke: Invoke, served: list[tuple[Settings, tuple[str, ...]]]) -> None:
    result = invoke("serve", "--threads", "0")
    assert (result.code, served) == (78, [])
    assert "--threads" in result.err


def test_models_are_resolved_before_anything_is_served(
    invoke: Invoke, served: list[tuple[Settings, tuple[str, ...]]], store: FakeStore, tmp_path: Path
) -> None:
    file = tmp_path / "mine.gguf"
    file.touch()
    invoke("serve", "tiny", "tiny:1b", str(file))
    assert served[0][1] == ("tiny:1b", "mine:local")


def test_a_missing_model_is_not_pulled_but_named(
    invoke: Invoke, served: list[tuple[Settings, tuple[str, ...]]], store: FakeStore
) -> None:
    store.available = {"new:1b"}
    result = invoke("serve", "new:1b")
    assert (result.code, served) == (2, [])
    assert result.err == "error: `new:1b` is not installed\n\nhint: `llmserve pull new:1b` gets it\n"
