"""Whether a freshly installed engine works: asked in a child, which imports it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from llmserve.engines import llama_cpp
from llmserve.engines.build import Build
from llmserve.engines.environment import interpreter, site_packages
from llmserve.hardware.environment import native_environment
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.process import capture

# The first import compiles nothing, yet reads a gigabyte, perhaps from a slow disk.
_SECONDS = 600.0

# Run by the environment's own interpreter. vLLM prints to stdout too, so the answer is the last line.
_ASK_VLLM = """
import json, vllm
from vllm.platforms import current_platform
print()
print(json.dumps({"version": vllm.__version__, "device": current_platform.device_type}))
"""


def check(build: Build, folder: Path, python: str) -> None:
    """Blocks for seconds, ten minutes at most. Raises `ProbeFailed` with what does not work, as a sentence's end."""
    if build.engine == "vllm":
        _check_vllm(build, folder)
    else:
        _check_llama_cpp(build, site_packages(folder, python))


def _check_vllm(build: Build, folder: Path) -> None:
    captured = capture(
        (str(interpreter(folder)), "-I", "-c", _ASK_VLLM),
        subject="importing it",
        timeout=_SECONDS,
        environment=native_environment(os.environ)
        | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
    )
    if captured.status != 0:
        raise ProbeFailed(captured.last_words or f"importing it ended with status {captured.status}")
    lines = captured.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    match answer:
        case {"version": str(version), "device": str(device)}:
            pass
        case _:
            raise ProbeFailed("it did not say its version")
    # The platform's name of a GPU of either maker is "cuda"; without the GPU there is none.
    wanted = "cpu" if build.device == "cpu" else "cuda"
    if version.partition("+")[0] != build.version.partition("+")[0]:
        raise ProbeFailed(f"it is version {version} instead of {build.version}")
    if build.present and device != wanted:
        raise ProbeFailed(f"it would run on {device or 'nothing'} instead of {build.device}")


def _check_llama_cpp(build: Build, packages: Path) -> None:
    info = llama_cpp.probe_packages(packages, build.version, _SECONDS)
    if not info.devices:
        raise ProbeFailed(info.detail)
    if build.present and build.device not in info.devices:
        raise ProbeFailed(f"it cannot use {build.device}: {info.detail}")
