"""AMD GPUs from ROCm's command-line tool."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping

from llmserve.hardware.environment import native_environment
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.files import hexadecimal, whole_number
from llmserve.hardware.kfd import shares_ram
from llmserve.hardware.process import capture
from llmserve.types import GpuInfo

_ARGUMENTS = ("--showproductname", "--showuniqueid", "--showmeminfo", "vram", "--showdriverversion", "--json")
# The key of the name has changed between releases; the first that is there counts.
_NAME_KEYS = ("Device Name", "Card Series", "Card series")


def find_program(environ: Mapping[str, str]) -> str | None:
    """The path of `rocm-smi`, which the packages of ROCm do not put on PATH."""
    return shutil.which("rocm-smi", path=environ.get("PATH")) or shutil.which("/opt/rocm/bin/rocm-smi")


def read_gpus(program: str, *, timeout: float, environ: Mapping[str, str]) -> tuple[GpuInfo, ...]:
    """The GPUs that `program` reports. Raises `ProbeFailed` when it reports none."""
    environment = native_environment(environ)
    return parse_report(
        capture((program, *_ARGUMENTS), subject="rocm-smi", timeout=timeout, environment=environment).stdout
    )


def parse_report(text: str) -> tuple[GpuInfo, ...]:
    """The GPUs in `rocm-smi --json`, in the order of their card numbers. Raises `ProbeFailed` when there is none."""
    # Warnings may stand before the object.
    try:
        report = json.loads(text[text.index("{") :])
    except ValueError:
        raise ProbeFailed("rocm-smi's answer is not JSON") from None
    cards = {whole_number(name.removeprefix("card")): facts for name, facts in report.items()}
    numbers = sorted(number for number, facts in cards.items() if number is not None and isinstance(facts, dict))
    if not numbers:
        raise ProbeFailed("rocm-smi reports no GPU")
    system = report.get("system")
    driver = _fact(system, "Driver version") if isinstance(system, dict) else None
    return tuple(_describe(cards[number], index, driver) for index, number in enumerate(numbers))


def _describe(facts: Mapping[str, object], index: int, driver: str | None) -> GpuInfo:
    target = _fact(facts, "GFX Version")
    total = whole_number(_fact(facts, "VRAM Total Memory (B)") or "")
    used = whole_number(_fact(facts, "VRAM Total Used Memory (B)") or "")
    unique_id = hexadecimal(_fact(facts, "Unique ID") or "")
    names = filter(None, (_fact(facts, key) for key in _NAME_KEYS))
    return GpuInfo(
        device="rocm",
        index=index,
        name=next(names, f"AMD GPU ({target or 'unknown target'})"),
        uuid=f"GPU-{unique_id:016x}" if unique_id else None,
        compute_capability=None,
        architecture=target,
        total_memory=total,
        free_memory=None if total is None or used is None else max(0, total - used),
        driver_version=driver,
        runtime_version=None,
        unified_memory=shares_ram(target),
    )


def _fact(facts: Mapping[str, object], key: str) -> str | None:
    value = facts.get(key)
    return value if isinstance(value, str) and value not in {"", "N/A"} else None
