"""What compiling llama.cpp needs, and the packages that bring what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from llmserve.errors import Unavailable
from llmserve.planning.formatting import listed
from llmserve.types import Device

# The variables that name a toolkit's folder, and where its own installer puts it, which is rarely on the PATH.
_TOOLKITS: Mapping[Device, tuple[tuple[str, ...], tuple[Path, ...]]] = MappingProxyType(
    {
        "cuda": (("CUDA_HOME", "CUDA_PATH"), (Path("/usr/local/cuda"), Path("/opt/cuda"))),
        "rocm": (("ROCM_PATH", "HIP_PATH"), (Path("/opt/rocm"),)),
    }
)


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that must be there: any of `programs`, and the package that has it, by system."""

    title: str
    programs: tuple[str, ...]
    debian: str
    fedora: str
    mac: str | None


_COMPILER = Tool("a C++ compiler", ("c++", "g++", "clang++"), "g++", "gcc-c++", None)
_C_COMPILER = Tool("a C compiler", ("cc", "gcc", "clang"), "gcc", "gcc", None)
_CUDA = Tool("the CUDA compiler nvcc", ("nvcc",), "nvidia-cuda-toolkit", "cuda-toolkit", None)
_HIP = Tool("the HIP compiler", ("hipcc", "amdclang++"), "hipcc", "rocm-hip-devel", None)
_GLSLC = Tool("the shader compiler glslc", ("glslc",), "glslc libvulkan-dev", "glslc vulkan-loader-devel", "shaderc")

_TOOLS: Mapping[Device, tuple[Tool, ...]] = MappingProxyType(
    {
        "cpu": (_C_COMPILER, _COMPILER),
        "metal": (_C_COMPILER, _COMPILER),
        "cuda": (_C_COMPILER, _COMPILER, _CUDA),
        "rocm": (_C_COMPILER, _COMPILER, _HIP),
        "vulkan": (_C_COMPILER, _COMPILER, _GLSLC),
    }
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What the compilation needs in its environment: folders for the PATH, and variables."""

    folders: tuple[Path, ...]
    variables: Mapping[str, str]

    def applied(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ` with these in front; what the user set stays."""
        path = os.pathsep.join([*map(str, self.folders), *filter(None, [environ.get("PATH")])])
        return {**self.variables, **environ, "PATH": path}


def toolchain(
    device: Device,
    *,
    environ: Mapping[str, str],
    installer: str | None,
    which: Callable[..., str | None] = shutil.which,
) -> Toolchain:
    """The compilers for `device`. Raises `Unavailable` naming all that are missing and how to get them.

    `installer` is the system's: "apt", "dnf" or "brew" (`package_installer`); None where it is not known.
    """
    homes = _toolkit_folders(device, environ)
    found = Toolchain(tuple(home / "bin" for home in homes), _variables(device, homes))
    path = found.applied(environ)["PATH"]
    missing = [tool for tool in _TOOLS[device] if not any(which(name, path=path) for name in tool.programs)]
    if missing:
        raise Unavailable(
            f"{listed([tool.title for tool in missing])} {'is' if len(missing) == 1 else 'are'} missing, "
            f"without which llama.cpp cannot be built for {device}",
            code="missing_tools",
            hint=_how(missing, installer)
            + ("; or build for Vulkan, with `--device vulkan`" if device in {"cuda", "rocm"} else ""),
        )
    return found


def package_installer(which: Callable[[str], str | None] = shutil.which) -> str | None:
    """The system's package installer, of those whose package names are known here."""
    return next((name for name in ("apt", "dnf", "brew") if which(name)), None)


def _toolkit_folders(device: Device, environ: Mapping[str, str]) -> list[Path]:
    names, usual = _TOOLKITS.get(device, ((), ()))
    named = [Path(environ[name]) for name in names if environ.get(name)]
    return [folder for folder in (*named, *usual) if (folder / "bin").is_dir()][:1]


def _variables(device: Device, homes: list[Path]) -> dict[str, str]:
    """ggml's build finds HIP by these two (`docs/build.md` of llama.cpp)."""
    if device != "rocm" or not homes:
        return {}
    return {"HIP_PATH": str(homes[0]), "HIPCXX": str(homes[0] / "llvm" / "bin" / "clang")}


def _how(missing: list[Tool], installer: str | None) -> str:
    debian = " ".join(tool.debian for tool in missing)
    fedora = " ".join(tool.fedora for tool in missing)
    mac = [f"brew install {tool.mac}" if tool.mac else "xcode-select --install" for tool in missing]
    commands = {
        "apt": f"sudo apt install {debian}",
        "dnf": f"sudo dnf install {fedora}",
        "brew": " && ".join(dict.fromkeys(mac)),
    }
    if installer in commands:
        return f"run `{commands[installer]}`"
    return f"the packages are called {debian} (Debian, Ubuntu) or {fedora} (Fedora)"
