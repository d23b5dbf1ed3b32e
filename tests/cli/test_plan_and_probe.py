"""`plan` and `probe`: what would be done here, or on a machine described in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmserve.types import EnginePlan, HardwareInfo, from_json
from tests.cli.conftest import Invoke
from tests.cli.fakes import FakeStore

MACHINES = Path(__file__).parent.parent / "machines"
NO_GPU = MACHINES / "laptop_no_gpu.json"
H100 = MACHINES / "h100_80gb.json"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> HardwareInfo:
    """This machine, for the length of a test: the laptop without a GPU."""
    hardware = from_json(HardwareInfo, NO_GPU.read_bytes())
    monkeypatch.setattr("llmserve.engines.machine.probe", lambda **_: hardware)
    return hardware


def test_a_plan_says_what_and_why(invoke: Invoke, store: FakeStore, machine: HardwareInfo) -> None:
    plan = from_json(EnginePlan, invoke("plan", "tiny", "--json").out)
    result = invoke("plan", "tiny")
    assert result.code == 0
    assert plan.reason in result.out
    assert plan.refused
    assert all(f"{refusal.option}: {refusal.reason}" in result.out for refusal in plan.refused)
    assert all(device.device in result.out for device in plan.memory)
    rows = {line.split()[0]: line.split()[1] for line in result.out.splitlines() if line}
    assert (rows["engine"], rows["threads"], rows["context"]) == ("llama.cpp", str(plan.threads), str(plan.context))
    assert result.err == ""


def test_a_plan_for_another_machine(invoke: Invoke, store: FakeStore, machine: HardwareInfo) -> None:
    here = from_json(EnginePlan, invoke("plan", "tiny", "--json").out)
    there = from_json(EnginePlan, invoke("plan", "tiny", "--json", "--hardware", str(H100)).out)
    assert here.devices == ("cpu",)
    assert there.devices == ("cuda:0",)


def test_a_plan_takes_overrides(invoke: Invoke, store: FakeStore, machine: HardwareInfo) -> None:
    plan = from_json(EnginePlan, invoke("plan", "tiny", "--json", "--threads", "1", "--context", "512").out)
    assert (plan.threads, plan.context) == (1, 512)


def test_a_plan_for_a_file_leaves_the_store_alone(
    invoke: Invoke, store: FakeStore, machine: HardwareInfo, tmp_path: Path
) -> None:
    assert invoke("plan", str(tmp_path / "mine.gguf")).code == 0
    assert store.adopted == []


def test_a_plan_for_a_model_that_is_not_pulled(invoke: Invoke, store: FakeStore, machine: HardwareInfo) -> None:
    store.available = {"new:1b"}
    result = invoke("plan", "new:1b")
    assert (result.code, result.out) == (1, "")
    assert result.err == "error: `new:1b` is not installed\n\nhint: `llmserve pull new:1b` gets it\n"


def without(path: str, replacement: Any = None) -> bytes:
    """The laptop's description with the field at `path` replaced, or removed."""
    description = json.loads(NO_GPU.read_bytes())
    *parents, last = path.split(".")
    place = description
    for parent in parents:
        place = place[parent]
    if replacement is None:
        del place[last]
    else:
        place[last] = replacement
    return json.dumps(description).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("cpu.usable_cpus"), "`cpu.usable_cpus`: it is missing"),
        (without("memory.total", "much"), "`memory.total`: Expected `int | null`, got `str`"),
        (without("gpus", [{"device": "abacus"}]), "`gpus[0].device`: Invalid enum value"),
        (b"not json", "JSON is malformed"),
        (b"[]", "does not describe a machine"),
        (b"\xff", "does not describe a machine"),
        (None, "cannot read the hardware file"),
    ],
)
def test_a_bad_description_names_the_field(
    invoke: Invoke, store: FakeStore, tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "machine.json"
    if content is not None:
        file.write_bytes(content)
    result = invoke("plan", "tiny", "--hardware", str(file))
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert str(file) in result.err


def test_probe_as_json_is_what_plan_reads(
    invoke: Invoke, store: FakeStore, machine: HardwareInfo, tmp_path: Path
) -> None:
    result = invoke("probe", "--json")
    assert from_json(HardwareInfo, result.out) == machine
    file = tmp_path / "machine.json"
    file.write_text(result.out)
    assert invoke("plan", "tiny", "--hardware", str(file)).out == invoke("plan", "tiny").out


@pytest.mark.parametrize("description", sorted(MACHINES.glob("*.json")), ids=lambda path: path.stem)
def test_probe_shows_everything_there_is(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, description: Path) -> None:
    hardware = from_json(HardwareInfo, description.read_bytes())
    monkeypatch.setattr("llmserve.engines.machine.probe", lambda **_: hardware)
    result = invoke("probe")
    assert result.code == 0
    assert all(gpu.name in result.out for gpu in hardware.gpus)
    assert all(note.finding in result.out for note in hardware.notes)
    assert all(engine.engine in result.out for engine in hardware.engines)
    assert f"{hardware.cpu.usable_cpus} usable CPUs" in result.out
    assert "None" not in result.out
