"""The machine and the engines on it, probed together."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

from llmserve.engines import llama_cpp, vllm
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.probe import GRACE_SECONDS, in_thread, outcome, probe_machine, with_engines
from llmserve.settings import Settings, home_directory
from llmserve.types import Engine, EngineInfo, HardwareInfo


def probe_for(settings: Settings) -> HardwareInfo:
    """`probe`, where the settings say that engines are."""
    return probe(home=home_directory(settings), vllm_python=settings.vllm_python)


def probe(*, timeout: float = 5.0, home: Path | None = None, vllm_python: Path | None = None) -> HardwareInfo:
    """Probe hardware and engines at once; blocks about as long as the slowest probe, a second over `timeout` at most.

    `home` is the data directory, where engines with an environment of their own are looked for; `vllm_python` the
    interpreter of the user's own vLLM. No machine makes it raise: each probe that comes back with nothing says why in
    `notes`. Call it in a thread where an event loop runs.
    """
    deadline = time.monotonic() + timeout + GRACE_SECONDS
    llama_probe = in_thread(lambda: llama_cpp.probe(timeout, home))
    vllm_probe = in_thread(lambda: vllm.probe(home, vllm_python, timeout))
    hardware = probe_machine(timeout=timeout)
    engines = (_settle("llama.cpp", llama_probe, deadline), _settle("vllm", vllm_probe, deadline))
    return with_engines(hardware, engines)


def _settle(engine: Engine, future: Future[EngineInfo], deadline: float) -> EngineInfo:
    try:
        return outcome(future, deadline)
    except ProbeFailed as failure:
        return EngineInfo(engine, None, (), str(failure))
