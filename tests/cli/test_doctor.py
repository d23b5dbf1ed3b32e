"""`doctor`: a table or JSON, the commands that mend, and an exit code for scripts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmserve.types import HardwareInfo, from_json
from tests.cli.conftest import Invoke

MACHINES = Path(__file__).parent.parent / "machines"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine: no driver, no memory to measure, no port."""
    monkeypatch.setattr("llmserve.hardware.surroundings.memory_speed", lambda: 12e9)
    monkeypatch.setattr("llmserve.hardware.surroundings.listens", lambda host, port: False)
    monkeypatch.setattr("llmserve.hardware.surroundings.forbidden_devices", lambda: ())
    monkeypatch.setattr("llmserve.hardware.child.run_child", lambda *_, **__: {})


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str) -> HardwareInfo:
    hardware = from_json(HardwareInfo, (MACHINES / f"{name}.json").read_bytes())
    monkeypatch.setattr("llmserve.engines.machine.probe", lambda **_: hardware)
    return hardware


def test_what_is_broken_is_told_with_its_command(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "rtx_3090_engine_cpu_only")
    result = invoke("doctor")
    assert result.code == 1
    assert "RTX 3090 is not used, because llama.cpp was built for CPU only" in result.out
    assert "llmserve engines install llama.cpp --device cuda" in result.out.split("to mend it:")[1]


def test_as_json(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = stand_in(monkeypatch, "laptop_no_gpu")
    monkeypatch.setattr("llmserve.engines.machine.probe", lambda **_: replace(hardware, engines=()))
    result = invoke("doctor", "--json")
    findings = json.loads(result.out)
    assert result.code == 1
    assert {"check": "engine", "verdict": "broken"}.items() <= findings[0].items()
    assert all(set(finding) == {"check", "verdict", "finding", "command"} for finding in findings)


def test_a_machine_that_is_well(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "laptop_no_gpu")
    result = invoke("doctor")
    assert "broken" not in result.out
    assert result.code == 0
