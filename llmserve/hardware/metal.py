"""GPUs that macOS drives with Metal, from `system_profiler`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from llmserve.hardware.environment import native_environment
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.files import whole_number
from llmserve.hardware.macos import read_sysctl
from llmserve.hardware.process import capture
from llmserve.types import GpuInfo

_UNITS = {"MB": 2**20, "GB": 2**30}


def probe_metal(*, timeout: float, system: str) -> tuple[GpuInfo, ...]:
    """The GPUs with Metal. Raises `ProbeFailed` when there is none."""
    if system != "darwin":
        raise ProbeFailed("this is not macOS")
    captured = capture(
        ("/usr/sbin/system_profiler", "SPDisplaysDataType", "-json"),
        subject="system_profiler",
        timeout=timeout,
        environment=native_environment(os.environ),
    )
    return parse_displays(captured.stdout, read_sysctl(timeout))


def parse_displays(text: str, sysctl: Mapping[str, str]) -> tuple[GpuInfo, ...]:
    """The GPUs in `system_profiler SPDisplaysDataType -json`, with memory sizes from `sysctl`'s values.

    A GPU that shares the RAM may use all of it as far as is known here, unless the owner set
    `iogpu.wired_limit_mb`; macOS by default stops it at two thirds to three quarters. What is free is not told.
    Raises `ProbeFailed` when no GPU has Metal.
    """
    try:
        displays = json.loads(text)["SPDisplaysDataType"]
        cards = [card for card in displays if _has_metal(card)]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ProbeFailed("system_profiler's answer has an unknown form") from None
    if not cards:
        raise ProbeFailed("no GPU of this Mac has Metal")
    return tuple(_describe(card, index, sysctl) for index, card in enumerate(cards))


def _describe(card: Mapping[str, object], index: int, sysctl: Mapping[str, str]) -> GpuInfo:
    own_memory = _size(card.get("spdisplays_vram"))
    wired_limit = whole_number(sysctl.get("iogpu.wired_limit_mb", ""))
    shared = wired_limit * _UNITS["MB"] if wired_limit else whole_number(sysctl.get("hw.memsize", ""))
    return GpuInfo(
        device="metal",
        index=index,
        name=str(card.get("sppci_model") or card.get("_name") or "Apple GPU"),
        uuid=None,
        compute_capability=None,
        architecture=_metal(card).removeprefix("spdisplays_") if "metal" in _metal(card) else None,
        total_memory=shared if own_memory is None else own_memory,
        free_memory=None,
        driver_version=None,
        runtime_version=None,
        unified_memory=own_memory is None,
    )


def _metal(card: Mapping[str, object]) -> str:
    """The level of Metal: "spdisplays_metal3", or on macOS 12 and older only "spdisplays_supported"."""
    return str(card.get("spdisplays_mtlgpufamilysupport") or card.get("spdisplays_metal") or "")


def _has_metal(card: Mapping[str, object]) -> bool:
    return _metal(card) not in {"", "spdisplays_notsupported"}


def _size(text: object) -> int | None:
    """Bytes of "8 GB", the memory of a GPU with its own."""
    number, _, unit = str(text).partition(" ")
    return int(number) * _UNITS[unit] if number.isdigit() and unit in _UNITS else None
