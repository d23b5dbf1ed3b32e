"""llama.cpp, by the libraries of the package llama-cpp-python: what its build can use here, and how to start it.

The package is found without importing it, and its libraries are loaded in a probe child only. One that was built for
this machine, in an environment under the data directory, goes before the one that llmserve was installed with: the
interpreter stays the same, and that environment's packages are first on its path.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import signal
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from llmserve.engines.build import LLAMA_CPP_VERSION
from llmserve.engines.command import Command
from llmserve.engines.environment import environments
from llmserve.engines.kernel_trial import try_kernels
from llmserve.engines.native import function
from llmserve.hardware.child import run_child
from llmserve.hardware.cpu import read_cpu
from llmserve.hardware.environment import native_environment
from llmserve.hardware.failure import ProbeFailed
from llmserve.types import AdapterFile, Device, EngineInfo, EnginePlan, InstalledModel, to_json

DISTRIBUTION = "llama-cpp-python"

# How often an idle OpenMP thread looks for work before it sleeps under the policy "passive" (GOMP_SPINCOUNT). ggml
# waits some hundred times per token, mostly for microseconds: sleeping at once halves the speed on an idle machine.
# "active" is the runtime's own default, a bounded spin; its variable of that name would keep a processor busy.
SHORT_SPIN = 300

# ggml's name of a backend -> the device it drives. Others (BLAS, RPC, ...) are none of a plan's devices.
_DEVICES: Mapping[str, Device] = MappingProxyType(
    {"CPU": "cpu", "CUDA": "cuda", "ROCm": "rocm", "HIP": "rocm", "Metal": "metal", "MTL": "metal", "Vulkan": "vulkan"}
)
# An instruction set compiled into the CPU backend, as ggml's `ggml_cpu_has_*` names it -> as `CpuInfo.features` does.
# Only those that every kernel in use names: an old one hides newer sets (AMX) that the CPU has all the same.
_INSTRUCTION_SETS: Mapping[str, str] = MappingProxyType(
    {"avx": "avx", "avx2": "avx2", "fma": "fma", "f16c": "f16c", "avx512": "avx512f", "sve": "sve"}
)


@dataclass(frozen=True, slots=True)
class NativeReport:
    """What the libraries say: backends compiled in, those that have a device here, and the CPU backend's needs."""

    backends: tuple[str, ...]
    with_device: tuple[str, ...]
    instruction_sets: tuple[str, ...]


def probe(timeout: float, home: Path | None = None) -> EngineInfo:
    """Find out what llama.cpp can use here. Never raises; blocks for `timeout` seconds at most.

    `home` is the data directory, where a build for this machine is looked for first.
    """
    if (packages := built_packages(home)) is not None:
        return probe_packages(packages, LLAMA_CPP_VERSION, timeout)
    if _library_folder() is None:
        return EngineInfo("llama.cpp", None, (), "llama-cpp-python is not installed")
    try:
        version: str | None = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        version = None
    return _probe(version, native_environment(os.environ), timeout)


def built_packages(home: Path | None) -> Path | None:
    """The packages of the latest build for this machine; None where there is none of the version that is needed.

    Its structures change between releases, so a build of another version is not used.
    """
    found = () if home is None else environments(home, "llama.cpp")
    fitting = (environment for environment in found if environment.record.version == LLAMA_CPP_VERSION)
    return next((environment.site_packages for environment in fitting), None)


def probe_packages(packages: Path, version: str, timeout: float) -> EngineInfo:
    """As `probe`, of the build of that version among the packages in a folder."""
    return _probe(version, _with_packages(native_environment(os.environ), packages), timeout)


def _probe(version: str | None, environment: Mapping[str, str], timeout: float) -> EngineInfo:
    try:
        report = parse_report(run_child(f"{__name__}:read_libraries", timeout=timeout, environment=environment))
    except ProbeFailed as failure:
        return EngineInfo("llama.cpp", version, (), _why(failure))
    return describe(version, report, read_cpu().features)


def _why(failure: ProbeFailed) -> str:
    """What a user is told about a build that fails its probe."""
    if failure.signal != signal.SIGILL:
        return str(failure)
    return (
        f"{failure}: {DISTRIBUTION} was compiled for another processor, or by a compiler that gets an instruction set "
        "of this one wrong"
    )


def describe(version: str | None, report: NativeReport, cpu_features: Collection[str]) -> EngineInfo:
    """The engine as installed. Not usable where its CPU code needs an instruction set that this CPU lacks.

    Empty `cpu_features` are unknown ones, and nothing follows from them.
    """
    title = f"{DISTRIBUTION} {version}" if version else DISTRIBUTION
    if missing := _missing(report.instruction_sets, cpu_features):
        reason = f"{title} is built for {', '.join(missing)}, which this CPU does not have"
        return EngineInfo("llama.cpp", version, (), reason)
    usable = dict.fromkeys(_DEVICES[name] for name in report.with_device if name in _DEVICES)
    # The CPU last: a build's other devices are what it was built for.
    devices = tuple(sorted(usable, key=lambda device: device == "cpu"))
    idle = [name for name in report.backends if name not in report.with_device]
    detail = f"{title}, built for {' and '.join(report.backends) or 'nothing'}"
    detail += "".join(f"; {name} finds no device" for name in idle)
    return EngineInfo("llama.cpp", version, devices, detail, report.instruction_sets)


def _missing(needs: Collection[str], cpu_features: Collection[str]) -> list[str]:
    return [name for name in needs if name not in cpu_features] if cpu_features else []


def parse_report(found: object) -> NativeReport:
    """The report in a child's answer. Raises `ProbeFailed` when it is none."""
    match found:
        case {"backends": [*backends], "with_device": [*with_device], "instruction_sets": [*needs]}:
            if all(isinstance(name, str) for name in (*backends, *with_device, *needs)):
                return NativeReport(tuple(backends), tuple(with_device), tuple(needs))
    raise ProbeFailed("the probe's answer has an unknown form")


def read_libraries() -> NativeReport:
    """Ask the libraries, and have them compute. Loads native code: run it in a child.

    Raises `ProbeFailed` when they cannot be used.
    """
    folder = _library_folder()
    if folder is None:
        raise ProbeFailed(f"{DISTRIBUTION} is not installed")
    try:
        library = ctypes.CDLL(str(_library(folder, "llama")))
        return _ask(library, folder)
    except (OSError, AttributeError) as error:
        # A library that is missing or needs another one; or a function of ours that this version does not have.
        raise ProbeFailed(f"the libraries of {DISTRIBUTION} cannot be used: {error}") from error


def command(
    plan: EnginePlan,
    model: InstalledModel,
    socket: Path,
    *,
    home: Path | None = None,
    prefixes: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Command:
    """The worker that serves `model` on the Unix socket `socket` as `plan` says.

    `home` is the data directory: a build for this machine there is used, as by `probe`.
    `prefixes` is the directory for those that outlive workers, of all models; it need not exist.
    Its environment is cut from `environ` (default: this process's) by an allow-list: no key, token or proxy.
    """
    kept = ("--prefixes", str(prefixes / model.sha256)) if prefixes is not None and plan.prefix_disk_bytes else ()
    argv = (
        *(sys.executable, "-P", "-m", "llmserve.llama"),
        *("--socket", str(socket), "--name", model.name, "--model", model.path, "--plan", to_json(plan)),
        *kept,
        *(() if model.template is None else ("--template", model.template)),
        *(part for adapter in model.adapters for part in _adapter_arguments(adapter)),
    )
    environment = _environment(plan, os.environ if environ is None else environ)
    packages = built_packages(home)
    return Command(argv, environment if packages is None else _with_packages(environment, packages))


def _adapter_arguments(adapter: AdapterFile) -> tuple[str, ...]:
    if adapter.name is None:
        return ("--adapter", adapter.path, repr(adapter.scale))
    named = ("--named-adapter", adapter.name, adapter.path, repr(adapter.scale))
    return (*named, "--default-adapter", adapter.name) if adapter.default else named


def _with_packages(environment: Mapping[str, str], packages: Path) -> dict[str, str]:
    """`environment` for this interpreter with a folder of packages before its own."""
    return {**environment, "PYTHONPATH": str(packages)}


def _environment(plan: EnginePlan, environ: Mapping[str, str]) -> dict[str, str]:
    environment = native_environment(environ) | {
        "HF_HUB_OFFLINE": "1",
        # NVML, whose numbers the plan uses, counts GPUs in this order; CUDA by itself counts the fastest first.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OMP_NUM_THREADS": str(plan.threads),
    }
    if plan.wait_policy == "passive":
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(SHORT_SPIN)}
    if plan.devices == ("cpu",):
        # A build with GPU support would set up every GPU it sees, and take memory there, to use none.
        environment |= {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1"}
    return environment


def _library_folder() -> Path | None:
    """Where the package keeps its libraries; None when it is not installed."""
    spec = importlib.util.find_spec("llama_cpp")
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0]) / "lib" if locations else None


def _library(folder: Path, name: str) -> Path:
    """The file of a library. Raises `OSError` when it is not there."""
    for suffix in (".so", ".dylib"):
        path = folder / f"lib{name}{suffix}"
        if path.exists():
            return path
    raise FileNotFoundError(f"lib{name} is missing")


def _ask(library: ctypes.CDLL, folder: Path) -> NativeReport:
    """Read ggml's lists. A symbol of ggml is found through libllama, which depends on its libraries.

    Raises `AttributeError` for a function that the libraries do not have, `OSError` for one that is missing.
    """
    handle, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    registry_count = function(library, "ggml_backend_reg_count", size)
    registry_get = function(library, "ggml_backend_reg_get", handle, size)
    registry_name = function(library, "ggml_backend_reg_name", text, handle)
    device_count = function(library, "ggml_backend_dev_count", size)
    device_get = function(library, "ggml_backend_dev_get", handle, size)
    device_registry = function(library, "ggml_backend_dev_backend_reg", handle, handle)
    offloads = function(library, "llama_supports_gpu_offload", ctypes.c_bool)()

    if registry_count() == 0:
        # A build whose backends are files of their own.
        function(library, "ggml_backend_load_all_from_path", None, text)(os.fsencode(folder))
    backends = [registry_name(registry_get(index)).decode() for index in range(registry_count())]
    devices = [registry_name(device_registry(device_get(index))).decode() for index in range(device_count())]
    usable = [name for name in devices if offloads or name == "CPU"]
    needs = _instruction_sets(folder)
    if not _missing(needs, read_cpu().features):
        try_kernels(library)
    return NativeReport(tuple(backends), tuple(dict.fromkeys(usable)), needs)


def _instruction_sets(folder: Path) -> tuple[str, ...]:
    """What the CPU backend was compiled for; nothing where its file is one of several variants, chosen by ggml."""
    try:
        library = ctypes.CDLL(str(_library(folder, "ggml-cpu")))
    except FileNotFoundError:
        return ()
    built = (
        feature
        for name, feature in _INSTRUCTION_SETS.items()
        if hasattr(library, f"ggml_cpu_has_{name}") and function(library, f"ggml_cpu_has_{name}", ctypes.c_int)()
    )
    return tuple(built)
