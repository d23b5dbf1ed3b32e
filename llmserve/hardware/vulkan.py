"""Whether a Vulkan program could find a GPU: the loader, a driver's manifest, and a device. Nothing is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_LIBRARY_FOLDERS = ("lib", "usr/lib", "lib64", "usr/lib64", "usr/local/lib", "opt/homebrew/lib")
_DATA_FOLDERS = ("etc", "usr/share", "usr/local/share", "usr/local/etc", "opt/homebrew/share", "opt/homebrew/etc")
_DEVICES = ("dev/dri/renderD*", "dev/nvidia[0-9]*", "dev/dxg")
# Drivers that compute on the CPU.
_SOFTWARE = ("lvp", "llvmpipe", "swiftshader")


@dataclass(frozen=True, slots=True)
class VulkanPresence:
    """`present` is None where it could not be determined; `finding` says what was found, or why nothing was."""

    present: bool | None
    finding: str


def read_vulkan(*, system: str, environ: Mapping[str, str], root: Path = Path("/")) -> VulkanPresence:
    """Look for Vulkan on Linux or macOS."""
    if system not in {"linux", "darwin"}:
        return VulkanPresence(None, f"unknown, because {system} is not looked at")
    try:
        if not _has_loader(root, environ, "libvulkan.so.1" if system == "linux" else "libvulkan.1.dylib"):
            return VulkanPresence(False, "none, because the Vulkan loader is not installed")
        drivers = sorted(set(_drivers(root, environ)))
        if not drivers:
            return VulkanPresence(False, "none, because no driver for a GPU is installed")
        if system == "linux" and not any(next(root.glob(pattern), None) for pattern in _DEVICES):
            return VulkanPresence(False, "none, because there is no GPU device in /dev")
    except OSError as error:
        return VulkanPresence(None, f"unknown, because {error.filename} cannot be read: {error.strerror}")
    return VulkanPresence(True, f"loader and drivers are installed ({', '.join(drivers)})")


def parse_manifest(text: str) -> str | None:
    """The library named by a driver's manifest (`{"ICD": {"library_path": ...}}`), or None if it is none."""
    try:
        match json.loads(text):
            case {"ICD": {"library_path": str(path)}}:
                return path
    except ValueError:
        pass
    return None


def _has_loader(root: Path, environ: Mapping[str, str], name: str) -> bool:
    folders = [root / folder for folder in _LIBRARY_FOLDERS]
    # Debian and its kin keep libraries in a folder per architecture.
    folders += [path for path in root.glob("usr/lib/*-linux-gnu*") if path.is_dir()]
    folders += [Path(folder) for folder in environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    return any((folder / name).exists() for folder in folders)


def _drivers(root: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """The file names of the installed drivers for GPUs."""
    for manifest in _manifests(root, environ):
        library = parse_manifest(manifest.read_text(encoding="utf-8", errors="replace"))
        if library is not None and not any(word in Path(library).name for word in _SOFTWARE):
            yield Path(library).name


def _manifests(root: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        if named := environ.get(variable):
            yield from (path for path in map(Path, named.split(os.pathsep)) if path.is_file())
            return
    folders = [root / folder for folder in _DATA_FOLDERS]
    if home := environ.get("HOME"):
        folders.append(Path(home) / ".local/share")
    for folder in folders:
        if (folder / "vulkan/icd.d").is_dir():
            # Not `glob`, which passes over a folder that may not be read.
            yield from (path for path in (folder / "vulkan/icd.d").iterdir() if path.suffix == ".json")
