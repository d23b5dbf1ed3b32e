"""What /proc/cpuinfo, sysfs, affinity and quota say together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.hardware.cpu import describe_mac, parse_cpuinfo, physical_cores, read_cpu, usable_cpus
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.macos import parse_sysctl
from llmserve.types import CpuInfo
from tests.hardware.trees import captured, plant

AVX2 = ("avx", "avx2", "fma", "f16c")
AVX512 = (*AVX2, "avx512f", "avx512_vnni", "avx512_bf16")


@pytest.mark.parametrize(
    ("capture", "model", "features", "cpus", "cores"),
    [
        (
            "cpuinfo_xeon_8481c.txt",
            "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            (*AVX512, "avx_vnni", "amx_int8", "amx_bf16"),
            8,
            4,
        ),
        ("cpuinfo_ryzen_7800x3d.txt", "AMD Ryzen 7 7800X3D 8-Core Processor", AVX512, 16, 8),
        ("cpuinfo_neoverse_n1.txt", "Neoverse-N1", ("neon",), 4, None),
        ("cpuinfo_neoverse_v1.txt", "Neoverse-V1", ("neon", "sve"), 2, None),
        ("cpuinfo_raspberry_pi_5.txt", "Cortex-A76", ("neon",), 4, None),
        (
            "cpuinfo_apple_m1_asahi.txt",
            "Apple M1 (efficiency core) + Apple M1 (performance core)",
            ("neon",),
            8,
            None,
        ),
        ("cpuinfo_mixed_cores.txt", "Cortex-A55 + Cortex-A76", ("neon",), 2, None),
    ],
)
def test_cpuinfo(capture: str, model: str, features: tuple[str, ...], cpus: int, cores: int | None) -> None:
    info = parse_cpuinfo(captured(capture))
    assert (info.model, info.features, len(info.cpus)) == (model, features, cpus)
    assert physical_cores(info.cores, info.cpus) == cores


@given(st.text(), st.text("processor: 0123\nflags\tavx CPU part 0xd0c"))
def test_no_text_breaks_the_parser(text: str, likely: str) -> None:
    for sample in (text, likely):
        assert len(parse_cpuinfo(sample).features) <= 12


@pytest.mark.parametrize(
    ("affinity", "quota", "usable"),
    [
        (8, None, 8),
        (8, 4.0, 4),
        (8, 3.99, 3),
        (8, 1.5, 1),
        (8, 0.5, 1),
        (8, 0.01, 1),
        (2, 16.0, 2),
        (1, 1.0, 1),
        (0, None, 1),
    ],
)
def test_usable_cpus(affinity: int, quota: float | None, usable: int) -> None:
    assert usable_cpus(affinity, quota) == usable


def xeon(root: Path) -> Path:
    """Four cores with two threads each, 0 and 4 on the same one, in a group with a quota of three CPUs."""
    siblings = {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}\n"
        for cpu in range(8)
    }
    files = {
        "proc/cpuinfo": captured("cpuinfo_xeon_8481c.txt"),
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": captured("mountinfo_v2_container.txt"),
        "sys/fs/cgroup/cpu.max": "300000 100000\n",
    }
    return plant(root, files | siblings)


@pytest.mark.parametrize(
    ("affinity", "cores", "usable"),
    [(range(8), 4, 3), ((0, 4), 1, 2), ((0, 1, 2), 3, 3), ((5,), 1, 1)],
)
def test_cores_are_counted_within_the_affinity(
    tmp_path: Path, affinity: range | tuple[int, ...], cores: int, usable: int
) -> None:
    cpu = read_cpu(xeon(tmp_path), system="linux", architecture="x86_64", affinity=affinity)
    assert (cpu.physical_cores, cpu.usable_cpus, cpu.logical_cpus, cpu.quota) == (cores, usable, 8, 3.0)


def test_cores_come_from_cpuinfo_where_sysfs_is_hidden(tmp_path: Path) -> None:
    root = plant(tmp_path, {"proc/cpuinfo": captured("cpuinfo_ryzen_7800x3d.txt")})
    cpu = read_cpu(root, system="linux", architecture="x86_64", affinity=(0, 1, 8))
    assert (cpu.physical_cores, cpu.usable_cpus) == (2, 3)


def test_cores_of_an_arm_machine_come_from_sysfs(tmp_path: Path) -> None:
    files = {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": str(cpu) for cpu in range(4)}
    root = plant(tmp_path, files | {"proc/cpuinfo": captured("cpuinfo_neoverse_n1.txt")})
    cpu = read_cpu(root, system="linux", architecture="aarch64", affinity=range(4))
    assert cpu == CpuInfo("aarch64", "Neoverse-N1", 4, 4, 4, None, ("neon",))


def test_nothing_is_invented_where_nothing_can_be_read(tmp_path: Path) -> None:
    cpu = read_cpu(tmp_path, system="linux", architecture="riscv64", affinity=(0, 1))
    assert (cpu.model, cpu.physical_cores, cpu.quota, cpu.features) == (None, None, None, ())
    assert cpu.usable_cpus == 2


@pytest.mark.parametrize(
    ("capture", "expected"),
    [
        ("sysctl_m2.txt", CpuInfo("arm64", "Apple M2", 8, 8, 8, None, ("neon",))),
        (
            "sysctl_intel_mac.txt",
            CpuInfo("x86_64", "Intel(R) Core(TM) i9-9980HK CPU @ 2.40GHz", 8, 16, 16, None, AVX2),
        ),
    ],
)
def test_a_mac(capture: str, expected: CpuInfo) -> None:
    assert describe_mac(expected.architecture, parse_sysctl(captured(capture))) == expected


def test_a_mac_without_sysctl_keeps_what_python_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(timeout: float) -> Mapping[str, str]:
        raise ProbeFailed("sysctl is not installed")

    monkeypatch.setattr("llmserve.hardware.cpu.read_sysctl", fail)
    cpu = read_cpu(system="darwin", architecture="arm64")
    assert (cpu.model, cpu.physical_cores, cpu.features) == (None, None, ())
    assert cpu.usable_cpus >= 1


def test_this_machine() -> None:
    cpu = read_cpu()
    assert cpu.usable_cpus >= 1
    assert cpu.logical_cpus is None or cpu.usable_cpus <= cpu.logical_cpus
