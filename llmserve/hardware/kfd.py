"""AMD GPUs from the kernel: KFD (the amdgpu compute driver) lists them, DRM knows their memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.files import hexadecimal, read_text, whole_number
from llmserve.types import GpuInfo

NODES = "sys/class/kfd/kfd/topology/nodes"

# Targets that LLVM's AMDGPU guide lists as APUs: GPUs that share the RAM.
_APUS = frozenset(
    {
        *("gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036"),
        *("gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"),
    }
)


def read_kfd(root: Path = Path("/")) -> tuple[GpuInfo, ...]:
    """The GPUs of the amdgpu compute driver. Raises `ProbeFailed` when there is none, or none for this user."""
    nodes = sorted((root / NODES).glob("*"), key=lambda node: whole_number(node.name) or 0)
    every = [parse_properties(read_text(node / "properties")) for node in nodes]
    # The processors are nodes as well; they have no SIMD units.
    gpus = [properties for properties in every if properties.get("simd_count", 0) > 0]
    if not gpus:
        raise ProbeFailed("the amdgpu driver finds no GPU")
    if not os.access(root / "dev/kfd", os.R_OK | os.W_OK):
        raise ProbeFailed("this user may not open /dev/kfd (join the groups render and video)")
    return tuple(_describe(root, properties, index) for index, properties in enumerate(gpus))


def parse_properties(text: str) -> dict[str, int]:
    """The `name value` lines of a KFD node's properties."""
    pairs = (line.partition(" ") for line in text.splitlines())
    numbers = ((name, whole_number(value)) for name, _, value in pairs)
    return {name: number for name, number in numbers if number is not None}


def target_name(version: int) -> str | None:
    """KFD's gfx_target_version as LLVM's target: 110000 is gfx1100, 90010 is gfx90a."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}" if version else None


def parse_marketing_names(text: str) -> dict[tuple[int, int], str]:
    """Names by device and revision number in libdrm's `amdgpu.ids` (`744C,	C8,	AMD Radeon RX 7900 XTX`)."""
    names: dict[tuple[int, int], str] = {}
    for line in text.splitlines():
        device, _, rest = line.partition(",")
        revision, separator, name = rest.partition(",")
        numbers = hexadecimal(device), hexadecimal(revision)
        if separator and numbers[0] is not None and numbers[1] is not None:
            names[numbers[0], numbers[1]] = name.strip()
    return names


def shares_ram(target: str | None) -> bool:
    """Whether the GPU is part of the processor and has no memory of its own."""
    return target in _APUS


def _describe(root: Path, properties: Mapping[str, int], index: int) -> GpuInfo:
    device = root / f"sys/class/drm/renderD{properties.get('drm_render_minor')}/device"
    target = target_name(properties.get("gfx_target_version", 0))
    total, free = _memory(device, shares_ram(target))
    unique_id = properties.get("unique_id")
    return GpuInfo(
        device="rocm",
        index=index,
        name=_name(root, device) or f"AMD GPU ({target or 'unknown target'})",
        uuid=f"GPU-{unique_id:016x}" if unique_id else None,
        compute_capability=None,
        architecture=target,
        total_memory=total,
        free_memory=free,
        driver_version=read_text(root / "sys/module/amdgpu/version") or None,
        runtime_version=read_text(root / "opt/rocm/.info/version").partition("-")[0] or None,
        unified_memory=shares_ram(target),
    )


def _memory(device: Path, shared: bool) -> tuple[int | None, int | None]:
    """Total and free bytes. An APU's VRAM is a part of the RAM set aside at boot; GTT is what it may map besides."""
    total = free = 0
    for kind in ("vram", "gtt") if shared else ("vram",):
        size = whole_number(read_text(device / f"mem_info_{kind}_total"))
        used = whole_number(read_text(device / f"mem_info_{kind}_used"))
        if size is None or used is None:
            return None if size is None else total + size, None
        total += size
        free += max(0, size - used)
    return total, free


def _name(root: Path, device: Path) -> str | None:
    if name := read_text(device / "product_name"):
        return name
    numbers = hexadecimal(read_text(device / "device")), hexadecimal(read_text(device / "revision"))
    for folder in ("usr/share/libdrm", "opt/amdgpu/share/libdrm"):
        names = parse_marketing_names(read_text(root / folder / "amdgpu.ids"))
        if numbers in names:
            return names[numbers]
    return None
