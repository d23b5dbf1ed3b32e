"""All engines that are installed: in environments of their own, and elsewhere."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from llmserve.engines import llama_cpp, vllm
from llmserve.engines.build import LLAMA_CPP_VERSION
from llmserve.engines.environment import Environment, environments
from llmserve.hardware.failure import ProbeFailed
from llmserve.types import Device, Engine


@dataclass(frozen=True, slots=True)
class InstalledEngine:
    """One installation: `name` is an environment's, or says where it is; `device` None where it is not known.

    `state` is "used", "not used" (another one is preferred), or what is wrong with it and what mends that.
    """

    name: str
    engine: Engine
    version: str
    device: Device | None
    size_bytes: int | None
    installed_at: float | None
    state: str


def inventory(home: Path, vllm_python: Path | None) -> tuple[InstalledEngine, ...]:
    """Every installation, by engine; reads metadata only, and never raises."""
    return (*_llama_cpp(home), *_vllm(home, vllm_python))


def _llama_cpp(home: Path) -> list[InstalledEngine]:
    built = llama_cpp.built_packages(home)
    found = [
        _own(environment, used=environment.site_packages == built) for environment in environments(home, "llama.cpp")
    ]
    try:
        version = importlib.metadata.version(llama_cpp.DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return found
    state = "used" if built is None else "not used"
    return [*found, InstalledEngine("(with llmserve)", "llama.cpp", version, None, None, None, state)]


def _vllm(home: Path, python: Path | None) -> list[InstalledEngine]:
    used = vllm.installed(home, python)
    found = [
        _own(environment, used=used is not None and used.python == environment.python)
        for environment in environments(home, "vllm")
    ]
    own = {environment.python for environment in environments(home, "vllm")}
    try:
        others = [entry for entry in vllm.installations(home, python) if entry.python not in own]
    except ProbeFailed as failure:
        return [*found, InstalledEngine(str(python), "vllm", "unknown", None, None, None, str(failure))]
    for entry in others:
        state = "used" if entry == used else "not used"
        found.append(InstalledEngine(str(entry.python), "vllm", entry.version, entry.device, None, None, state))
    return found


def _own(environment: Environment, *, used: bool) -> InstalledEngine:
    record = environment.record
    return InstalledEngine(
        name=environment.name,
        engine=record.engine,
        version=record.version,
        device=record.device,
        size_bytes=record.size_bytes,
        installed_at=record.installed_at,
        state=_problem(environment) or ("used" if used else "not used"),
    )


def _problem(environment: Environment) -> str | None:
    """Why an environment cannot be used at all, and what mends that."""
    mend = f"`llmserve engines update {environment.name}`"
    if not environment.python.exists():
        return f"its Python is gone: {mend}"
    if environment.record.engine == "llama.cpp" and environment.record.version != LLAMA_CPP_VERSION:
        return f"this llmserve needs {LLAMA_CPP_VERSION}: {mend}"
    return None
