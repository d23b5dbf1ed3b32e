"""GPUs of Macs."""

from __future__ import annotations

import pytest

from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.macos import parse_sysctl
from llmserve.hardware.metal import parse_displays, probe_metal
from llmserve.types import GpuInfo
from tests.hardware.trees import captured

GIB = 2**30


def gpu(index: int, name: str, architecture: str | None, memory: int | None, unified: bool) -> GpuInfo:
    return GpuInfo("metal", index, name, None, None, architecture, memory, None, None, None, unified)


def test_apple_silicon_shares_the_ram() -> None:
    gpus = parse_displays(captured("system_profiler_m2.json"), parse_sysctl(captured("sysctl_m2.txt")))
    assert gpus == (gpu(0, "Apple M2", "metal3", 16 * GIB, True),)


def test_the_owner_s_limit_counts() -> None:
    sysctl = parse_sysctl(captured("sysctl_m2.txt")) | {"iogpu.wired_limit_mb": "14336"}
    (found,) = parse_displays(captured("system_profiler_m2.json"), sysctl)
    assert found.total_memory == 14 * GIB


def test_an_intel_mac_has_a_gpu_of_each_kind() -> None:
    sysctl = parse_sysctl(captured("sysctl_intel_mac.txt"))
    assert parse_displays(captured("system_profiler_intel_mac.json"), sysctl) == (
        gpu(0, "Intel UHD Graphics 630", "metal3", 32 * GIB, True),
        gpu(1, "AMD Radeon Pro 5500M", "metal3", 8 * GIB, False),
    )


def test_a_gpu_without_metal_does_not_count() -> None:
    gpus = parse_displays(captured("system_profiler_macos_11.json"), {})
    assert gpus == (gpu(0, "Intel Iris Pro", None, None, True),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unknown form"),
        ("[]", "unknown form"),
        ("{}", "unknown form"),
        ('{"SPDisplaysDataType": 3}', "unknown form"),
        ('{"SPDisplaysDataType": ["Apple M2"]}', "unknown form"),
        ('{"SPDisplaysDataType": []}', "no GPU of this Mac has Metal"),
        ('{"SPDisplaysDataType": [{"_name": "VMware"}]}', "no GPU of this Mac has Metal"),
    ],
)
def test_no_gpu_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ProbeFailed, match=reason):
        parse_displays(text, {})


def test_linux_is_not_asked() -> None:
    with pytest.raises(ProbeFailed, match="this is not macOS"):
        probe_metal(timeout=1, system="linux")
