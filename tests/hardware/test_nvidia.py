"""What NVML says, and what it refuses to say."""

from __future__ import annotations

import pynvml
import pytest

from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.nvidia import explain, list_gpus, probe_nvidia
from llmserve.types import GpuInfo
from tests.hardware.fake_nvml import MIB, FakeGpu, FakeNvml

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
UNKNOWN = pynvml.NVML_ERROR_UNKNOWN
A100 = FakeGpu(
    name="NVIDIA A100-SXM4-80GB",
    uuid="GPU-1e5d9c33-0f51-4b1c-8a3c-6f9d2a7b4c10",
    capability=(8, 0),
    total_mib=81920,
    free_mib=81151,
)


def slice_of_a100(number: int) -> FakeGpu:
    """A MIG slice; NVML knows neither architecture nor compute capability of one."""
    return FakeGpu(
        name="NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        uuid=f"MIG-{number}",
        total_mib=9728,
        free_mib=9715,
        errors={"capability": NOT_SUPPORTED, "architecture": NOT_SUPPORTED, "mig": NOT_SUPPORTED},
    )


def test_one_gpu() -> None:
    assert list_gpus(FakeNvml(FakeGpu())) == (
        GpuInfo(
            device="cuda",
            index=0,
            name="NVIDIA GeForce RTX 3090",
            uuid="GPU-e8d14b60-2c7f-45ba-8f19-0a6c3e9d7b51",
            compute_capability=(8, 6),
            architecture="ampere",
            total_memory=24576 * MIB,
            free_memory=24125 * MIB,
            driver_version="570.133.20",
            runtime_version="12.8",
            unified_memory=False,
        ),
    )


def test_slices_stand_for_the_gpu_they_divide() -> None:
    divided = FakeGpu(**{**vars(A100), "slices": [slice_of_a100(1), None, slice_of_a100(2)]})
    gpus = list_gpus(FakeNvml(divided, A100))
    assert [(gpu.index, gpu.uuid) for gpu in gpus] == [(0, "MIG-1"), (1, "MIG-2"), (2, A100.uuid)]
    assert [gpu.total_memory for gpu in gpus] == [9728 * MIB, 9728 * MIB, 81920 * MIB]
    assert {gpu.compute_capability for gpu in gpus} == {(8, 0)}
    assert {gpu.architecture for gpu in gpus} == {"ampere"}


def test_what_nvml_does_not_say_is_unknown() -> None:
    silent = FakeGpu(
        errors=dict.fromkeys(("name", "uuid", "capability", "architecture", "memory", "mig"), UNKNOWN),
    )
    (gpu,) = list_gpus(FakeNvml(silent, driver=None, cuda=None))
    assert gpu == GpuInfo("cuda", 0, "NVIDIA GPU", None, None, None, None, None, None, None, False)


def test_a_gpu_without_memory_of_its_own_shares_the_ram() -> None:
    spark = FakeGpu(name="NVIDIA GB10", capability=(12, 1), architecture=10, errors={"memory": NOT_SUPPORTED})
    (gpu,) = list_gpus(FakeNvml(spark, cuda=13000))
    assert (gpu.unified_memory, gpu.total_memory, gpu.free_memory) == (True, None, None)
    assert (gpu.architecture, gpu.runtime_version) == ("blackwell", "13.0")


def test_an_architecture_without_a_name_here_is_unknown() -> None:
    (gpu,) = list_gpus(FakeNvml(FakeGpu(architecture=99)))
    assert gpu.architecture is None


def test_a_lost_gpu_is_passed_over() -> None:
    gpus = list_gpus(FakeNvml(None, FakeGpu()))
    assert [(gpu.index, gpu.name) for gpu in gpus] == [(0, "NVIDIA GeForce RTX 3090")]


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (FakeNvml(), "the NVIDIA driver finds no GPU"),
        (FakeNvml(None), "the NVIDIA driver finds no GPU"),
        (FakeNvml(FakeGpu(slices=[])), "MIG is on and no slice exists"),
    ],
)
def test_no_gpu_has_a_reason(nvml: FakeNvml, reason: str) -> None:
    with pytest.raises(ProbeFailed, match=reason):
        list_gpus(nvml)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "libnvidia-ml.so.1 is not installed"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "the NVIDIA driver is not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "the NVIDIA driver and its library differ in version (reboot)"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "this user may not use the NVIDIA driver"),
        (pynvml.NVML_ERROR_TIMEOUT, "NVML says: Timeout"),
    ],
)
def test_an_error_is_put_into_words(code: int, reason: str) -> None:
    assert explain(pynvml, pynvml.NVMLError(code)) == reason


def gpus_in_child(monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    monkeypatch.setattr("llmserve.hardware.nvidia.run_child", lambda target, *, timeout: found)


def test_a_hidden_gpu_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        **{"device": "cuda", "index": 0, "name": "Tesla T4", "uuid": "GPU-1", "compute_capability": [7, 5]},
        **{"architecture": "turing", "total_memory": 1, "free_memory": 1, "driver_version": "550"},
        **{"runtime_version": "12.4", "unified_memory": False},
    }
    gpus_in_child(monkeypatch, [facts])
    (gpu,) = probe_nvidia(timeout=1, system="linux", environ={"CUDA_VISIBLE_DEVICES": "GPU-1"})
    assert gpu.compute_capability == (7, 5)
    with pytest.raises(ProbeFailed, match="CUDA_VISIBLE_DEVICES hides every GPU"):
        probe_nvidia(timeout=1, system="linux", environ={"CUDA_VISIBLE_DEVICES": ""})


def test_macos_is_not_asked() -> None:
    with pytest.raises(ProbeFailed, match="macOS has no NVIDIA driver"):
        probe_nvidia(timeout=1, system="darwin", environ={})
