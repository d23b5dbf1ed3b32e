"""Whether an installed engine is found to be what it should: environments without pip, which is quick."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from llmserve.engines.build import vllm_build
from llmserve.engines.environment import site_packages
from llmserve.engines.verification import check
from llmserve.hardware.failure import ProbeFailed
from llmserve.types import Device
from tests.engines.installs import PYTHON, fake_vllm
from tests.planning.machines import machine


def environment_with(folder: Path, files: Mapping[str, str]) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(os.path.realpath(sys.executable))
    (folder / "pyvenv.cfg").write_text(f"home = {sysconfig.get_config_var('BINDIR')}\nversion = {PYTHON}\n")
    for name, text in files.items():
        path = site_packages(folder, PYTHON) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("device", "files"),
    [
        ("cpu", fake_vllm("cpu", "0.32.0+cpu")),
        ("cuda", fake_vllm("cuda", "0.32.0")),
        ("cpu", fake_vllm(extra="print('INFO 11-24 Automatically detected platform cpu.')")),
    ],
)
def test_what_works(tmp_path: Path, device: Device, files: Mapping[str, str]) -> None:
    check(vllm_build(machine("h100_80gb"), device), environment_with(tmp_path, files), PYTHON)


def test_a_device_that_is_not_here_is_not_asked_for(tmp_path: Path) -> None:
    folder = environment_with(tmp_path, fake_vllm(device=""))
    build = vllm_build(machine("laptop_no_gpu"), "cuda")
    check(build, folder, PYTHON)
    with pytest.raises(ProbeFailed, match="it would run on nothing instead of cuda"):
        check(replace(build, present=True), folder, PYTHON)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "No module named 'vllm'"),
        (fake_vllm(device="cuda"), "it would run on cuda instead of cpu"),
        (fake_vllm(version="0.31.0"), "it is version 0.31.0 instead of 0.32.0"),
        (fake_vllm(extra="raise OSError('libcudart.so.13: cannot open shared object file')"), "libcudart.so.13"),
        ({"vllm/__init__.py": "import os; os._exit(0)"}, "it did not say its version"),
        ({"vllm/__init__.py": "import os; os._exit(3)"}, "importing it ended with status 3"),
        ({"vllm/__init__.py": "import os; os.abort()"}, "importing it was killed by SIGABRT"),
    ],
)
def test_what_does_not(tmp_path: Path, files: Mapping[str, str], reason: str) -> None:
    with pytest.raises(ProbeFailed, match=reason):
        check(vllm_build(machine("laptop_no_gpu")), environment_with(tmp_path, files), PYTHON)
