"""llama.cpp: what its libraries say, and how its worker is started."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from llmserve.engines import llama_cpp
from llmserve.engines.llama_cpp import SHORT_SPIN, NativeReport, command, describe, parse_report, probe, read_libraries
from llmserve.hardware.cpu import read_cpu
from llmserve.hardware.failure import ProbeFailed
from llmserve.types import CpuInfo, Device, DeviceMemory, EnginePlan, InstalledModel, WaitPolicy, from_json

AVX2 = ("avx", "avx2", "fma", "f16c")
PLAN = EnginePlan(
    engine="llama.cpp",
    devices=("cpu",),
    gpu_layers=0,
    total_layers=31,
    context=2048,
    parallel=4,
    kv_cells=8192,
    kv_type="f16",
    threads=2,
    wait_policy="passive",
    batch=512,
    micro_batch=256,
    flash_attention=True,
    memory=(DeviceMemory("ram", 92 * 2**20, 180 * 2**20, 17 * 2**20, 0, 2**30),),
    fits=True,
    reason="there is no GPU, so the CPU computes",
    refused=(),
)
MODEL = InstalledModel(
    name="smollm2:135m",
    aliases=("smollm2",),
    format="gguf",
    quantization="Q4_1",
    path="/data/blobs/sha256-00",
    size_bytes=98_000_000,
    sha256="00",
    source="file:/data/model.gguf",
    pulled_at=0.0,
)
SOCKET = Path("/run/user/1000/llmserve/1a2b3c4d.sock")


# --- probe ---------------------------------------------------------------------------------------------------------


def test_the_installed_engine_is_probed() -> None:
    info = probe(timeout=20)
    assert info.engine == "llama.cpp"
    assert info.version == importlib.metadata.version("llama-cpp-python")
    assert "cpu" in info.devices
    assert info.detail.startswith(f"llama-cpp-python {info.version}, built for ")


def test_probing_imports_neither_the_engine_nor_anything_heavy() -> None:
    code = (
        "import sys; from llmserve.engines.llama_cpp import probe; info = probe(20);"
        "print(info.installed, sorted({'llama_cpp', 'numpy', 'pydantic', 'pynvml'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "True []\n"


@pytest.mark.parametrize(
    ("report", "features", "devices", "detail"),
    [
        (NativeReport(("CPU",), ("CPU",), AVX2), AVX2, ("cpu",), "llama-cpp-python 0.3.36, built for CPU"),
        (
            NativeReport(("CUDA", "CPU"), ("CUDA", "CPU"), ()),
            AVX2,
            ("cuda", "cpu"),
            "llama-cpp-python 0.3.36, built for CUDA and CPU",
        ),
        (
            NativeReport(("CUDA", "CPU"), ("CPU",), ()),
            AVX2,
            ("cpu",),
            "llama-cpp-python 0.3.36, built for CUDA and CPU; CUDA finds no device",
        ),
        (
            NativeReport(("ROCm", "Vulkan", "CPU"), ("CPU", "ROCm", "Vulkan"), ()),
            AVX2,
            ("rocm", "vulkan", "cpu"),
            "llama-cpp-python 0.3.36, built for ROCm and Vulkan and CPU",
        ),
        (
            NativeReport(("MTL", "BLAS", "CPU"), ("MTL", "BLAS", "CPU"), ()),
            ("neon",),
            ("metal", "cpu"),
            "llama-cpp-python 0.3.36, built for MTL and BLAS and CPU",
        ),
        (
            NativeReport(("CPU",), ("CPU",), (*AVX2, "avx512f")),
            AVX2,
            (),
            "llama-cpp-python 0.3.36 is built for avx512f, which this CPU does not have",
        ),
        # A CPU whose features are unknown is not refused.
        (NativeReport(("CPU",), ("CPU",), AVX2), (), ("cpu",), "llama-cpp-python 0.3.36, built for CPU"),
        (NativeReport((), (), ()), AVX2, (), "llama-cpp-python 0.3.36, built for nothing"),
    ],
)
def test_a_build_is_described(
    report: NativeReport, features: tuple[str, ...], devices: tuple[Device, ...], detail: str
) -> None:
    info = describe("0.3.36", report, features)
    assert (info.version, info.devices, info.detail) == ("0.3.36", devices, detail)
    assert info.instruction_sets == (report.instruction_sets if devices else ())


@pytest.mark.parametrize(
    ("killer", "explanation"),
    [
        (signal.SIGSEGV, ""),
        (
            signal.SIGILL,
            ": llama-cpp-python was compiled for another processor, or by a compiler that gets an instruction set of "
            "this one wrong",
        ),
    ],
)
def test_a_build_that_kills_its_probe_is_not_usable(
    monkeypatch: pytest.MonkeyPatch, killer: signal.Signals, explanation: str
) -> None:
    def crash(target: str, *, timeout: float, environment: Mapping[str, str]) -> object:
        raise ProbeFailed(f"the probe was killed by {killer.name}", signal=killer)

    monkeypatch.setattr(llama_cpp, "run_child", crash)
    info = probe(timeout=1)
    assert not info.installed
    assert info.detail == f"the probe was killed by {killer.name}{explanation}"


def test_a_build_for_another_processor_is_not_tried_on_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def other() -> CpuInfo:
        return dataclasses.replace(read_cpu(), features=("sse2",))

    def trial(library: ctypes.CDLL) -> None:
        raise ProbeFailed("it was tried")

    monkeypatch.setattr(llama_cpp, "try_kernels", trial)
    with pytest.raises(ProbeFailed, match="it was tried"):
        read_libraries()
    monkeypatch.setattr(llama_cpp, "read_cpu", other)
    # Its reason is then the instruction sets, by name.
    assert read_libraries().instruction_sets


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an empty package `llama_cpp` before the real one; returns its library folder."""
    libraries = folder / "llama_cpp/lib"
    libraries.mkdir(parents=True)
    (folder / "llama_cpp/__init__.py").write_text("raise AssertionError('the package was imported')")
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.syspath_prepend(folder)
    return libraries


def test_a_missing_library_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    with pytest.raises(ProbeFailed, match="the libraries of llama-cpp-python cannot be used: libllama is missing"):
        read_libraries()


def test_a_broken_library_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (install(tmp_path, monkeypatch) / "libllama.so").write_bytes(b"not a library")
    with pytest.raises(ProbeFailed, match=r"cannot be used: .*libllama\.so"):
        read_libraries()


def test_a_missing_package_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    info = probe(timeout=1)
    assert (info.version, info.devices, info.detail) == (None, (), "llama-cpp-python is not installed")
    with pytest.raises(ProbeFailed, match="llama-cpp-python is not installed"):
        read_libraries()


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"backends": ["CPU"]},
        {"backends": "CPU", "with_device": [], "instruction_sets": []},
        {"backends": [1], "with_device": [], "instruction_sets": []},
    ],
)
def test_an_answer_of_another_form_is_refused(found: object) -> None:
    with pytest.raises(ProbeFailed, match="unknown form"):
        parse_report(found)


def test_a_report_reads_back() -> None:
    report = NativeReport(("CUDA", "CPU"), ("CPU",), ("avx",))
    assert parse_report(json.loads(json.dumps(dataclasses.asdict(report)))) == report


# --- command -------------------------------------------------------------------------------------------------------


def test_the_command_line() -> None:
    argv = command(PLAN, MODEL, SOCKET, environ={}).argv
    assert argv[:4] == (sys.executable, "-P", "-m", "llmserve.llama")
    options = dict(zip(argv[4::2], argv[5::2], strict=True))
    plan = options.pop("--plan")
    assert options == {"--socket": str(SOCKET), "--name": "smollm2:135m", "--model": "/data/blobs/sha256-00"}
    assert from_json(EnginePlan, plan) == PLAN


def test_no_secret_reaches_the_worker() -> None:
    secrets = ("OPENAI_API_KEY", "HF_TOKEN", "LLMSERVE_API_KEY", "https_proxy", "HTTP_PROXY", "AWS_SESSION_TOKEN")
    started = command(PLAN, MODEL, SOCKET, environ=dict.fromkeys(secrets, "canary") | {"PATH": "/bin"})
    assert "canary" not in repr(started)
    assert started.environment["PATH"] == "/bin"


def test_the_environment_defaults_to_this_process_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cuda/lib64")
    environment = command(PLAN, MODEL, SOCKET).environment
    assert environment["LD_LIBRARY_PATH"] == "/opt/cuda/lib64"
    assert "HF_TOKEN" not in environment


@pytest.mark.parametrize(
    ("threads", "wait_policy", "expected"),
    [
        (2, "passive", {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(SHORT_SPIN)}),
        (16, "active", {"OMP_NUM_THREADS": "16"}),
    ],
)
def test_the_plan_decides_the_threads(threads: int, wait_policy: WaitPolicy, expected: dict[str, str]) -> None:
    plan = dataclasses.replace(PLAN, threads=threads, wait_policy=wait_policy)
    environ = {"OMP_NUM_THREADS": "64", "OMP_WAIT_POLICY": "whatever", "GOMP_SPINCOUNT": "7"}
    environment = command(plan, MODEL, SOCKET, environ=environ).environment
    assert {name: value for name, value in environment.items() if "OMP" in name} == expected
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_a_plan_for_the_cpu_hides_the_gpus() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "0,1", "HIP_VISIBLE_DEVICES": "0"}
    hidden = command(PLAN, MODEL, SOCKET, environ=environ).environment
    assert (hidden["CUDA_VISIBLE_DEVICES"], hidden["HIP_VISIBLE_DEVICES"]) == ("-1", "-1")


@pytest.mark.parametrize("devices", [("cuda:0",), ("cuda:0", "cpu"), ("cuda:0", "cuda:1")])
def test_a_plan_for_gpus_leaves_them_as_the_user_chose(devices: tuple[str, ...]) -> None:
    plan = dataclasses.replace(PLAN, devices=devices, gpu_layers=10)
    environment = command(plan, MODEL, SOCKET, environ={"CUDA_VISIBLE_DEVICES": "2,3"}).environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
