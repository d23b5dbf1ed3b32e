"""The processor as this process may use it: affinity, control-group quota, instruction sets."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmserve.hardware.cgroup import cpu_quota
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.files import read_text, whole_number
from llmserve.hardware.macos import read_sysctl
from llmserve.types import CpuInfo

# The instruction sets that change a plan, in the order they are reported, by the names Linux gives them.
_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16"),
    *("neon", "sve"),
)
# Linux says asimd for 64-bit NEON; macOS has its own spellings.
_LINUX_ALIASES = {"asimd": "neon"}
_MACOS_ALIASES = {
    "avx1.0": "avx",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "avxvnni": "avx_vnni",
    "hw.optional.neon": "neon",
    "hw.optional.advsimd": "neon",
}
# MIDR_EL1's implementer and part number. ARM kernels print the numbers only.
_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd44"): "Cortex-X1",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd84"): "Neoverse-V3",
    ("0x41", "0xd85"): "Cortex-X925",
    ("0x41", "0xd87"): "Cortex-A725",
    ("0x41", "0xd8e"): "Neoverse-N3",
    ("0x46", "0x001"): "A64FX",
    ("0x48", "0xd01"): "Kunpeng-920",
    ("0x51", "0x001"): "Oryon",
    ("0x61", "0x022"): "Apple M1 (efficiency core)",
    ("0x61", "0x023"): "Apple M1 (performance core)",
    ("0x61", "0x032"): "Apple M2 (efficiency core)",
    ("0x61", "0x033"): "Apple M2 (performance core)",
    ("0xc0", "0xac3"): "Ampere-1",
    ("0xc0", "0xac4"): "Ampere-1a",
}


@dataclass(frozen=True, slots=True)
class Cpuinfo:
    """What `/proc/cpuinfo` says. `cores` maps each CPU's number to its physical core, where it tells."""

    model: str | None
    features: tuple[str, ...]
    cpus: frozenset[int]
    cores: Mapping[int, str]


def read_cpu(
    root: Path = Path("/"),
    *,
    system: str = sys.platform,
    architecture: str | None = None,
    affinity: Collection[int] | None = None,
    timeout: float = 5.0,
) -> CpuInfo:
    """Read the processor's facts. Never fails: what cannot be read is None, and one CPU is always usable.

    `architecture` and `affinity` (the CPUs this process may run on) are this process's own unless given.
    """
    architecture = platform.machine() if architecture is None else architecture
    if system == "darwin":
        try:
            return describe_mac(architecture, read_sysctl(timeout))
        except ProbeFailed:
            return CpuInfo(architecture, None, None, os.cpu_count(), os.cpu_count() or 1, None, ())
    info = parse_cpuinfo(read_text(root / "proc/cpuinfo"))
    allowed = frozenset(_affinity() if affinity is None else affinity)
    quota = cpu_quota(root)
    return CpuInfo(
        architecture=architecture,
        model=info.model,
        physical_cores=physical_cores(_cores_in_sysfs(root, allowed), allowed) or physical_cores(info.cores, allowed),
        logical_cpus=len(info.cpus) or os.cpu_count(),
        usable_cpus=usable_cpus(len(allowed), quota),
        quota=quota,
        features=info.features,
    )


def usable_cpus(affinity: int, quota: float | None) -> int:
    """How many threads may compute at once: the quota rounds down, since a thread beyond it stalls all the others."""
    return max(1, affinity if quota is None else min(affinity, math.floor(quota)))


def physical_cores(cores: Mapping[int, str], cpus: Iterable[int]) -> int | None:
    """How many different cores `cpus` lie on, or None unless the core of each is known."""
    wanted = [cores.get(cpu) for cpu in cpus]
    return len(set(wanted)) if wanted and None not in wanted else None


def parse_cpuinfo(text: str) -> Cpuinfo:
    """Read `/proc/cpuinfo` of x86 or ARM. Only features that every CPU has count (cores may differ in kind)."""
    processors = [_fields(block) for block in text.split("\n\n")]
    processors = [fields for fields in processors if fields.get("processor", "").isdigit()]
    common: set[str] | None = None
    for fields in processors:
        words = set((fields.get("flags") or fields.get("Features") or "").split())
        common = words if common is None else common & words
    models = dict.fromkeys(model for model in map(_model, processors) if model)
    return Cpuinfo(
        model=" + ".join(models) or None,
        features=_known(common or (), _LINUX_ALIASES),
        cpus=frozenset(int(fields["processor"]) for fields in processors),
        cores={
            int(fields["processor"]): f"{fields['physical id']}:{fields['core id']}"
            for fields in processors
            if "physical id" in fields and "core id" in fields
        },
    )


def describe_mac(architecture: str, sysctl: Mapping[str, str]) -> CpuInfo:
    """The processor of a Mac from `sysctl`'s values. macOS has neither affinity nor quotas."""
    words = f"{sysctl.get('machdep.cpu.features', '')} {sysctl.get('machdep.cpu.leaf7_features', '')}".split()
    words += [name for name, value in sysctl.items() if name.startswith("hw.optional.") and value == "1"]
    logical = whole_number(sysctl.get("hw.logicalcpu", ""))
    return CpuInfo(
        architecture=architecture,
        model=sysctl.get("machdep.cpu.brand_string"),
        physical_cores=whole_number(sysctl.get("hw.physicalcpu", "")),
        logical_cpus=logical,
        usable_cpus=logical or os.cpu_count() or 1,
        quota=None,
        features=_known((word.lower() for word in words), _MACOS_ALIASES),
    )


def _known(names: Iterable[str], aliases: Mapping[str, str]) -> tuple[str, ...]:
    found = {aliases.get(name, name) for name in names}
    return tuple(feature for feature in _FEATURES if feature in found)


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, separator, value in pairs if separator}


def _model(fields: Mapping[str, str]) -> str | None:
    """The name of one processor: x86's "model name", or ARM's part number looked up."""
    # 32-bit ARM kernels put "ARMv7 Processor rev 3 (v7l)" into "model name": the part says more.
    part = _ARM_PARTS.get((fields.get("CPU implementer", ""), fields.get("CPU part", "")))
    return part or fields.get("model name") or None


def _cores_in_sysfs(root: Path, cpus: Iterable[int]) -> dict[int, str]:
    """Each CPU's core, named by the list of CPUs that share it; this file is there on every architecture."""
    topology = {cpu: root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in cpus}
    cores = {cpu: read_text(path) for cpu, path in topology.items()}
    return {cpu: siblings for cpu, siblings in cores.items() if siblings}


def _affinity() -> Collection[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)
