"""The whole machine: always an answer, and a sentence for every probe."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from llmserve.hardware import probe
from llmserve.hardware.failure import ProbeFailed
from llmserve.types import CpuInfo, EngineInfo, GpuInfo, HardwareInfo, MemoryInfo, from_json, to_json

PROBES = ["cpu", "memory", "nvml", "rocm", "metal", "vulkan"]
T4 = GpuInfo("cuda", 0, "Tesla T4", None, (7, 5), "turing", 15 * 2**30, 2**30, "550", "12.4", False)


def findings(hardware: HardwareInfo) -> dict[str, str]:
    return {note.probe: note.finding for note in hardware.notes}


def fail(reason: str) -> Callable[..., object]:
    def probe_that_fails(**_: object) -> object:
        raise ProbeFailed(reason)

    return probe_that_fails


def test_this_machine_is_described_and_survives_json() -> None:
    hardware = probe.probe_machine()
    assert [note.probe for note in hardware.notes] == PROBES
    assert all(note.finding for note in hardware.notes)
    assert from_json(HardwareInfo, to_json(hardware)) == hardware


def test_failures_leave_unknowns_and_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "read_memory", fail("/proc is not mounted"))
    monkeypatch.setattr(probe, "probe_nvidia", fail("the probe was killed by SIGSEGV"))
    monkeypatch.setattr(probe, "probe_rocm", lambda **_: (T4,))
    monkeypatch.setattr(probe, "read_vulkan", fail("the disk is on fire"))
    hardware = probe.probe_machine()
    assert hardware.memory == MemoryInfo(None, None, None)
    assert hardware.vulkan is None
    assert hardware.gpus == (T4,)
    found = findings(hardware)
    assert found["memory"] == "none, because /proc is not mounted"
    assert found["nvml"] == "none, because the probe was killed by SIGSEGV"
    assert found["rocm"] == "Tesla T4 (15.0 GiB, of which 1.0 GiB are free)"
    assert found["vulkan"] == "none, because the disk is on fire"


def test_a_file_that_cannot_be_read_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> tuple[GpuInfo, ...]:
        raise PermissionError(13, "Permission denied", "/sys/class/kfd")

    monkeypatch.setattr(probe, "probe_rocm", refuse)
    found = findings(probe.probe_machine())
    assert found["rocm"] == "none, because /sys/class/kfd cannot be read: Permission denied"


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(**_: object) -> tuple[GpuInfo, ...]:
        raise ZeroDivisionError

    monkeypatch.setattr(probe, "probe_rocm", stumble)
    with pytest.raises(ZeroDivisionError):
        probe.probe_machine()


def test_a_probe_that_hangs_is_left_behind() -> None:
    with pytest.raises(ProbeFailed, match="the probe did not answer in time"):
        probe.outcome(Future(), time.monotonic())


def test_engines_get_a_note_each() -> None:
    engines = (
        EngineInfo("llama.cpp", "0.3.36", ("cpu",), "llama-cpp-python 0.3.36, built for CPU"),
        EngineInfo("vllm", None, (), "vLLM is not installed"),
    )
    hardware = probe.probe_machine(engines=engines)
    assert hardware.engines == engines
    found = findings(hardware)
    assert list(found) == [*PROBES, "llama.cpp", "vllm"]
    assert found["llama.cpp"] == "llama-cpp-python 0.3.36, built for CPU"
    assert found["vllm"] == "none, because vLLM is not installed"


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            probe.describe_cpu(CpuInfo("x86_64", "AMD EPYC 7713", 64, 128, 8, 8.0, ())),
            "AMD EPYC 7713, 8 of 128 CPUs usable (quota 8)",
        ),
        (probe.describe_cpu(CpuInfo("riscv64", None, None, None, 1, None, ())), "riscv64, 1 CPUs usable"),
        (
            probe.describe_memory(MemoryInfo(2**31, 3 * 2**29, 2**31)),
            "2.0 GiB, of which 1.5 GiB are available (limit 2.0 GiB)",
        ),
        (
            probe.describe_memory(MemoryInfo(2**34, None, None)),
            "16.0 GiB, of which an unknown amount are available",
        ),
    ],
)
def test_sentences(sentence: str, expected: str) -> None:
    assert sentence == expected
