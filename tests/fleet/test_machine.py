"""The machine is probed once, and its free memory read for every plan."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest

from llmserve.fleet.machine import Machine
from llmserve.hardware.failure import ProbeFailed
from llmserve.types import GpuInfo, HardwareInfo, MemoryInfo
from tests.fleet.fakes import GIB, FakeMachine

GPU = GpuInfo("cuda", 0, "Fake", None, (8, 6), None, 8 * GIB, 6 * GIB, None, None, False)


class Probes:
    """Stand-ins for the real probes, counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hardware: HardwareInfo) -> None:
        self.hardware = hardware
        self.full = 0
        self.failure: ProbeFailed | None = None
        monkeypatch.setattr("llmserve.engines.machine.probe", self._probe)
        monkeypatch.setattr("llmserve.hardware.memory.read_memory", self._memory)
        monkeypatch.setattr("llmserve.hardware.probe.probe_machine", lambda: replace(self.hardware, engines=()))

    def _probe(self, *, home: Path, vllm_python: Path | None) -> HardwareInfo:
        self.full += 1
        return self.hardware

    def _memory(self) -> MemoryInfo:
        if self.failure is not None:
            raise self.failure
        return self.hardware.memory


def with_available(hardware: HardwareInfo, available: int) -> HardwareInfo:
    return replace(hardware, memory=replace(hardware.memory, available=available))


def test_ram_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probes = Probes(monkeypatch, FakeMachine(8 * GIB)())
    machine = Machine(tmp_path)
    first = machine()
    probes.hardware = with_available(first, GIB)
    assert machine() == with_available(first, GIB)
    assert probes.full == 1


def test_two_threads_probe_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probes = Probes(monkeypatch, FakeMachine(8 * GIB)())
    machine, meeting = Machine(tmp_path), Barrier(2)

    def probe(**places: object) -> HardwareInfo:
        # The other thread has the time to come here too, and does not.
        with pytest.raises(BrokenBarrierError):
            meeting.wait(0.3)
        return probes.hardware

    monkeypatch.setattr("llmserve.engines.machine.probe", probe)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.submit(machine), threads.submit(machine)
        assert first.result(20) == second.result(20) == probes.hardware


def test_gpus_are_read_again_and_the_engines_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probes = Probes(monkeypatch, replace(FakeMachine(8 * GIB)(), gpus=(GPU,)))
    machine = Machine(tmp_path)
    first = machine()
    fuller = replace(GPU, free_memory=GIB)
    probes.hardware = replace(with_available(first, GIB), gpus=(fuller,))
    assert machine() == replace(with_available(first, GIB), gpus=(fuller,))
    assert machine().engines == first.engines != ()
    assert probes.full == 1


def test_what_cannot_be_read_again_stays_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probes = Probes(monkeypatch, FakeMachine(8 * GIB)())
    machine = Machine(tmp_path)
    first = machine()
    probes.failure = ProbeFailed("no /proc")
    assert machine() == first


def test_gpus_that_do_not_answer_are_still_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probes = Probes(monkeypatch, replace(FakeMachine(8 * GIB)(), gpus=(GPU,)))
    machine = Machine(tmp_path)
    machine()
    probes.hardware = replace(probes.hardware, gpus=())
    assert machine().gpus == (GPU,)
