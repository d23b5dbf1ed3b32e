"""What compiling needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmserve.engines.toolchain import package_installer, toolchain
from llmserve.errors import Unavailable
from llmserve.types import Device


def program(folder: Path, *names: str) -> Path:
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / "bin" / name
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return folder / "bin"


@pytest.mark.parametrize(
    ("there", "device", "installer", "message", "hint"),
    [
        ((), "cpu", "apt", "a C compiler and a C++ compiler are missing", "run `sudo apt install gcc g++`"),
        (("cc",), "cpu", "dnf", "a C++ compiler is missing", "run `sudo dnf install gcc-c++`"),
        ((), "metal", "brew", "a C compiler and a C++ compiler are missing", "run `xcode-select --install`"),
        (
            ("cc", "c++"),
            "cuda",
            "apt",
            "the CUDA compiler nvcc is missing, without which llama.cpp cannot be built for cuda",
            "run `sudo apt install nvidia-cuda-toolkit`; or build for Vulkan, with `--device vulkan`",
        ),
        (("gcc", "g++"), "rocm", "apt", "the HIP compiler is missing", "run `sudo apt install hipcc`; or build"),
        (
            ("cc", "c++"),
            "vulkan",
            None,
            "the shader compiler glslc is missing",
            "the packages are called glslc libvulkan-dev (Debian, Ubuntu) or glslc vulkan-loader-devel (Fedora)",
        ),
        (("cc", "c++"), "vulkan", "brew", "the shader compiler glslc is missing", "run `brew install shaderc`"),
    ],
)
def test_what_is_missing_is_named_with_its_package(
    tmp_path: Path, there: tuple[str, ...], device: Device, installer: str | None, message: str, hint: str
) -> None:
    environ = {"PATH": str(program(tmp_path, *there)), "CUDA_HOME": "", "ROCM_PATH": ""}

    def which(name: str, path: str) -> str | None:
        found = tmp_path / "bin" / name
        return str(found) if str(tmp_path / "bin") in path.split(os.pathsep) and found.exists() else None

    with pytest.raises(Unavailable) as caught:
        toolchain(device, environ=environ, installer=installer, which=which)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_a_toolkit_beside_the_path_is_found(tmp_path: Path) -> None:
    compilers = program(tmp_path, "cc", "c++")
    toolkit = program(tmp_path / "cuda", "nvcc")
    environ = {"PATH": str(compilers), "CUDA_HOME": str(tmp_path / "cuda")}
    found = toolchain("cuda", environ=environ, installer=None)
    assert found.folders == (toolkit,)
    assert found.applied(environ)["PATH"] == f"{toolkit}{os.pathsep}{compilers}"


def test_hip_gets_what_its_build_asks_for(tmp_path: Path) -> None:
    program(tmp_path, "cc", "c++")
    program(tmp_path / "rocm", "hipcc")
    environ = {"PATH": str(tmp_path / "bin"), "ROCM_PATH": str(tmp_path / "rocm")}
    applied = toolchain("rocm", environ=environ, installer=None).applied({**environ, "HIPCXX": "/usr/bin/mine"})
    assert applied["HIP_PATH"] == str(tmp_path / "rocm")
    assert applied["HIPCXX"] == "/usr/bin/mine"


@pytest.mark.parametrize(("there", "found"), [({"dnf"}, "dnf"), ({"brew"}, "brew"), (set(), None)])
def test_the_systems_installer(there: set[str], found: str | None) -> None:
    assert package_installer(lambda name: name if name in there else None) == found
