"""AMD GPUs from the kernel's own files (KFD topology and DRM), or from `rocm-smi` where those are not mounted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from llmserve.hardware.child import run_child
from llmserve.hardware.environment import native_environment
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.files import hexadecimal, read_text, whole_number
from llmserve.hardware.gpus import parse_gpus, select_visible
from llmserve.hardware.process import capture
from llmserve.types import GpuInfo

_NODES = "sys/class/kfd/kfd/topology/nodes"
# Targets that LLVM's AMDGPU guide lists as APUs: GPUs that share the RAM.
_APUS = frozenset(
    {
        *("gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036"),
        *("gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"),
    }
)
_SMI_ARGUMENTS = ("--showproductname", "--showuniqueid", "--showmeminfo", "vram", "--showdriverversion", "--json")


def probe_rocm(
    *, timeout: float, system: str, environ: Mapping[str, str], root: Path = Path("/")
) -> tuple[GpuInfo, ...]:
    """The GPUs a ROCm program started from here would see. Raises `ProbeFailed` when there is none."""
    if system != "linux":
        raise ProbeFailed("this is not Linux")
    if (root / _NODES).is_dir():
        # A wedged GPU can hang these files, so they are read in a child as well.
        gpus = parse_gpus(run_child(f"{__name__}:read_kfd", timeout=timeout))
    else:
        gpus = read_smi(timeout=timeout, environ=environ)
    gpus = select_visible(gpus, environ.get("ROCR_VISIBLE_DEVICES"))
    gpus = select_visible(gpus, environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES")))
    if not gpus:
        raise ProbeFailed("ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES hides every GPU")
    return gpus


def read_kfd(root: Path = Path("/")) -> tuple[GpuInfo, ...]:
    """The GPUs of the amdgpu compute driver. Raises `ProbeFailed` when there is none, or none for this user."""
    gpus: list[GpuInfo] = []
    for node in sorted((root / _NODES).glob("*"), key=_node_number):
        properties = parse_properties(read_text(node / "properties"))
        if properties.get("simd_count", 0) > 0:
            gpus.append(_describe(root, properties, len(gpus)))
    if not gpus:
        raise ProbeFailed("the amdgpu driver finds no GPU")
    if not os.access(root / "dev/kfd", os.R_OK | os.W_OK):
        raise ProbeFailed("this user may not open /dev/kfd (join the groups render and video)")
    return tuple(gpus)


def parse_properties(text: str) -> dict[str, int]:
    """The `name value` lines of a KFD node's properties."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def target_name(version: int) -> str | None:
    """KFD's gfx_target_version as LLVM's target: 110000 is gfx1100, 90010 is gfx90a."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}" if version else None


def parse_marketing_names(text: str) -> dict[tuple[int, int], str]:
    """Names by device and revision number in libdrm's `amdgpu.ids` (`744C, C8, AMD Radeon RX 7900 XTX`)."""
    names: dict[tuple[int, int], str] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",", 2)]
        if len(parts) == 3 and not line.startswith("#"):
            device, revision = hexadecimal(parts[0]), hexadecimal(parts[1])
            if device is not None and revision is not None:
                names[device, revision] = parts[2]
    return names


def read_smi(*, timeout: float, environ: Mapping[str, str]) -> tuple[GpuInfo, ...]:
    """The GPUs `rocm-smi` reports. Raises `ProbeFailed` when it is missing or reports none."""
    program = shutil.which("rocm-smi", path=environ.get("PATH")) or shutil.which("/opt/rocm/bin/rocm-smi")
    if program is None:
        raise ProbeFailed("the amdgpu compute driver is not loaded (/sys/class/kfd is missing)")
    captured = capture(
        (program, *_SMI_ARGUMENTS), subject="rocm-smi", timeout=timeout, environment=native_environment(environ)
    )
    return parse_smi(captured.stdout)


def parse_smi(text: str) -> tuple[GpuInfo, ...]:
    """The GPUs in `rocm-smi --json`. Raises `ProbeFailed` when there is none."""
    # Warnings may stand before the object.
    try:
        report = json.loads(text[text.index("{") :])
    except ValueError:
        raise ProbeFailed("rocm-smi's answer is not JSON") from None
    cards = {name: facts for name, facts in report.items() if name.startswith("card") and isinstance(facts, dict)}
    driver = report.get("system", {}).get("Driver version") if isinstance(report.get("system"), dict) else None
    gpus = tuple(
        _describe_card(cards[name], index, driver)
        for index, name in enumerate(sorted(cards, key=lambda name: (len(name), name)))
    )
    if not gpus:
        raise ProbeFailed("rocm-smi reports no GPU")
    return gpus


def _describe(root: Path, properties: Mapping[str, int], index: int) -> GpuInfo:
    device = root / f"sys/class/drm/renderD{properties.get('drm_render_minor', -1)}/device"
    target = target_name(properties.get("gfx_target_version", 0))
    shared = target in _APUS
    # An APU's VRAM is a small part of the RAM set aside at boot; GTT is the rest that the GPU may map.
    kinds = ("vram", "gtt") if shared else ("vram",)
    totals = [whole_number(read_text(device / f"mem_info_{kind}_total")) for kind in kinds]
    used = [whole_number(read_text(device / f"mem_info_{kind}_used")) for kind in kinds]
    total = _sum(totals)
    in_use = _sum(used)
    unique_id = properties.get("unique_id", 0)
    return GpuInfo(
        device="rocm",
        index=index,
        name=_name(root, device) or f"AMD GPU ({target or 'unknown target'})",
        uuid=f"GPU-{unique_id:016x}" if unique_id else None,
        compute_capability=None,
        architecture=target,
        total_memory=total,
        free_memory=None if total is None or in_use is None else max(0, total - in_use),
        driver_version=read_text(root / "sys/module/amdgpu/version") or None,
        runtime_version=read_text(root / "opt/rocm/.info/version").partition("-")[0] or None,
        unified_memory=shared,
    )


def _name(root: Path, device: Path) -> str | None:
    if name := read_text(device / "product_name"):
        return name
    numbers = hexadecimal(read_text(device / "device")), hexadecimal(read_text(device / "revision"))
    for folder in ("usr/share/libdrm", "opt/amdgpu/share/libdrm"):
        names = parse_marketing_names(read_text(root / folder / "amdgpu.ids"))
        if numbers in names:
            return names[numbers]
    return None


def _describe_card(facts: Mapping[str, object], index: int, driver: object) -> GpuInfo:
    target = _text(facts, "GFX Version")
    total, used = _bytes(facts, "VRAM Total Memory (B)"), _bytes(facts, "VRAM Total Used Memory (B)")
    unique_id = hexadecimal(_text(facts, "Unique ID") or "")
    # Older releases put the name into "Card series" (and "Card Series").
    names = [_text(facts, key) for key in ("Device Name", "Card Series", "Card series")]
    return GpuInfo(
        device="rocm",
        index=index,
        name=next((name for name in names if name), f"AMD GPU ({target or 'unknown target'})"),
        uuid=f"GPU-{unique_id:016x}" if unique_id else None,
        compute_capability=None,
        architecture=target,
        total_memory=total,
        free_memory=None if total is None or used is None else max(0, total - used),
        driver_version=driver if isinstance(driver, str) else None,
        runtime_version=None,
        unified_memory=target in _APUS,
    )


def _text(facts: Mapping[str, object], key: str) -> str | None:
    value = facts.get(key)
    return value if isinstance(value, str) and value not in {"", "N/A"} else None


def _bytes(facts: Mapping[str, object], key: str) -> int | None:
    return whole_number(_text(facts, key) or "")


def _sum(parts: list[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _node_number(node: Path) -> int:
    return int(node.name) if node.name.isdigit() else -1
