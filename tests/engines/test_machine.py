"""The machine with its engines, as `llmserve probe` prints it."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path

import pytest

from llmserve.engines import machine
from llmserve.types import EngineInfo, HardwareInfo, from_json, to_json
from tests.engines.installs import environment

MACHINES = Path(__file__).parents[1] / "machines"
PROBES = ["cpu", "memory", "nvml", "rocm", "metal", "vulkan", "llama.cpp", "vllm"]


def test_this_machine_survives_json() -> None:
    hardware = machine.probe()
    assert from_json(HardwareInfo, to_json(hardware)) == hardware
    assert [engine.engine for engine in hardware.engines] == ["llama.cpp", "vllm"]
    assert [note.probe for note in hardware.notes] == PROBES


def test_engines_are_looked_for_in_the_given_home(tmp_path: Path) -> None:
    environment(tmp_path, "vllm", "0.32.0", "cuda")
    assert machine.probe(home=tmp_path).engines[1].devices == ("cuda",)


def test_an_engine_whose_probe_hangs_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GRACE_SECONDS", -1e9)
    never: Future[EngineInfo] = Future()
    monkeypatch.setattr(machine, "in_thread", lambda call: never)
    engines = machine.probe().engines
    assert [engine.devices for engine in engines] == [(), ()]
    assert {engine.detail for engine in engines} == {"the probe did not answer in time"}


@pytest.mark.parametrize("path", sorted(MACHINES.glob("*.json")), ids=lambda path: path.stem)
def test_a_described_machine_has_the_form_of_a_probed_one(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    hardware = from_json(HardwareInfo, text)
    assert json.loads(to_json(hardware)) == json.loads(text)
    assert [note.probe for note in hardware.notes] == PROBES
