"""AMD GPUs: from the kernel's own files, or from `rocm-smi` where those are not mounted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmserve.hardware import kfd, rocm_smi
from llmserve.hardware.child import run_child
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.gpus import parse_gpus, select_visible
from llmserve.types import GpuInfo


def probe_rocm(
    *, timeout: float, system: str, environ: Mapping[str, str], root: Path = Path("/")
) -> tuple[GpuInfo, ...]:
    """The GPUs a ROCm program started from here would see. Raises `ProbeFailed` when there is none."""
    if system != "linux":
        raise ProbeFailed("this is not Linux")
    if (root / kfd.NODES).is_dir():
        # A wedged GPU can hang these files, so they are read in a child as well.
        gpus = parse_gpus(run_child(f"{kfd.__name__}:read_kfd", timeout=timeout))
    elif program := rocm_smi.find_program(environ):
        gpus = rocm_smi.read_gpus(program, timeout=timeout, environ=environ)
    else:
        raise ProbeFailed("the amdgpu compute driver is not loaded (/sys/class/kfd is missing)")
    gpus = select_visible(gpus, environ.get("ROCR_VISIBLE_DEVICES"))
    gpus = select_visible(gpus, environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES")))
    if not gpus:
        raise ProbeFailed("ROCR_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES hides every GPU")
    return gpus
