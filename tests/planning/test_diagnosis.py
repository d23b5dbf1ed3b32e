"""What the doctor says of a machine: one change at a time to one that is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmserve.planning.diagnosis import Finding, Surroundings, diagnose
from llmserve.types import HardwareInfo, ProbeNote
from tests.planning.machines import NAMES, machine, with_engines

WELL = Surroundings(
    home="/home/me/llmserve",
    home_writable=True,
    home_mode=0o700,
    disk_free=100 << 30,
    address="127.0.0.1:11435",
    port_answer="nothing",
    proxies=(),
    proxy_spares_loopback=False,
    now=2_000_000_000.0,
    latest_file=1_900_000_000.0,
    open_files=65536,
    memory_bytes_per_second=12e9,
    build_features=("avx", "avx2", "fma", "f16c", "avx512f"),
    device_files=(),
)


def troubles(hardware: HardwareInfo, around: Surroundings = WELL) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnose(hardware, around) if finding.verdict != "ok"}


def laptop() -> HardwareInfo:
    """A machine without a GPU, and without a word of any driver."""
    return replace(machine("laptop_no_gpu"), notes=())


def test_nothing_is_wrong_with_a_machine_that_is_well() -> None:
    assert troubles(laptop()) == {}
    assert troubles(machine("rtx_4090_24gb")) == {}


@pytest.mark.parametrize(
    ("changes", "check", "verdict", "command"),
    [
        ({"home_writable": False}, "permissions", "broken", 'sudo chown -R "$USER" /home/me/llmserve'),
        ({"home_mode": 0o755}, "permissions", "note", "chmod 700 /home/me/llmserve"),
        ({"disk_free": 100 << 20}, "disk", "broken", "llmserve prune"),
        ({"disk_free": 5 << 30}, "disk", "note", "llmserve du"),
        ({"disk_free": None}, "disk", "note", None),
        ({"port_answer": "another program"}, "port", "broken", "llmserve serve --port 11500"),
        ({"proxies": ("HTTP_PROXY",)}, "proxy", "note", "export NO_PROXY=localhost,127.0.0.1,::1"),
        ({"now": 0.0}, "clock", "broken", "sudo timedatectl set-ntp true"),
        ({"open_files": 256}, "open files", "note", "ulimit -n 4096"),
        ({"memory_bytes_per_second": 2e9}, "memory speed", "note", "llmserve plan MODEL"),
        ({"memory_bytes_per_second": None}, "memory speed", "note", None),
        ({"build_features": ("avx",)}, "processor", "note", "llmserve engines install llama.cpp --device cpu"),
        ({"device_files": ("/dev/kfd",)}, "gpu", "broken", 'sudo usermod -aG render,video "$USER"'),
    ],
)
def test_what_is_wrong_around(changes: dict[str, Any], check: str, verdict: str, command: str | None) -> None:
    found = troubles(laptop(), replace(WELL, **changes))
    assert list(found) == [check]
    assert (found[check].verdict, found[check].command) == (verdict, command)


@pytest.mark.parametrize(
    "changes",
    [{"port_answer": "llmserve"}, {"proxies": ("HTTP_PROXY",), "proxy_spares_loopback": True}, {"build_features": ()}],
)
def test_what_is_not_wrong(changes: dict[str, Any]) -> None:
    assert troubles(laptop(), replace(WELL, **changes)) == {}


def test_a_gpu_that_the_build_cannot_use() -> None:
    found = troubles(machine("rtx_3090_engine_cpu_only"))["gpu"]
    assert found.finding == "NVIDIA GeForce RTX 3090 is not used, because llama.cpp was built for CPU only"
    assert (found.verdict, found.command) == ("broken", "llmserve engines install llama.cpp --device cuda")


def test_a_vulkan_build_uses_other_makers_gpus() -> None:
    assert "gpu" not in troubles(with_engines(machine("rx_7900_xtx"), llama=["vulkan", "cpu"]))


def test_no_engine_at_all() -> None:
    found = troubles(with_engines(machine("laptop_no_gpu")))["engine"]
    assert (found.verdict, found.command) == ("broken", "llmserve engines install llama.cpp")


def test_a_build_that_finds_no_device_although_there_is_one() -> None:
    hardware = machine("rtx_3060_12gb")
    blind = replace(hardware.engines[0], devices=("cpu",), detail="built for CUDA and CPU; CUDA finds no device")
    assert troubles(replace(hardware, engines=(blind,)))["driver"].verdict == "broken"


def test_a_driver_and_a_library_of_different_versions() -> None:
    note = ProbeNote("nvml", "none, because the NVIDIA driver and its library differ in version (reboot)")
    found = troubles(replace(laptop(), notes=(note,)))["driver"]
    assert (found.verdict, found.command) == ("broken", "sudo reboot")


def test_a_control_group_that_gives_less_than_a_processor() -> None:
    hardware = machine("container_1cpu_2gib")
    squeezed = replace(hardware, cpu=replace(hardware.cpu, quota=0.5))
    assert troubles(squeezed)["limits"].command == "docker update --cpus 2 CONTAINER"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_broken_can_be_mended(name: str) -> None:
    findings = diagnose(machine(name), WELL)
    assert all(finding.command for finding in findings if finding.verdict == "broken")
    assert all("None" not in finding.finding for finding in findings)
