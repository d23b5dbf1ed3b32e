"""Installed engines, as far as their metadata goes."""

from __future__ import annotations

import sys
from pathlib import Path

from llmserve.engines.environment import RECORD, Record, folder_name
from llmserve.types import Device, Engine, to_json

PYTHON = "{}.{}".format(*sys.version_info)


def install(site_packages: Path, distribution: str, version: str) -> None:
    """The metadata of a distribution."""
    folder = site_packages / f"{distribution.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {distribution}\nVersion: {version}\n")


def environment(
    home: Path, distribution: str, version: str, device: Device, *, engine: Engine = "vllm", installed_at: float = 1.0
) -> Path:
    """A complete environment under the data directory, for this Python; returns its interpreter."""
    folder = home / "engines" / folder_name(engine, version, device)
    install(folder / f"lib/python{PYTHON}/site-packages", distribution, version)
    python = folder / "bin/python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    record = Record(engine, distribution, version, device, PYTHON, installed_at, size_bytes=2**30, packages=1)
    (folder / RECORD).write_text(to_json(record))
    return python


def fake_vllm(device: str = "cpu", version: str = "0.32.0", extra: str = "") -> dict[str, str]:
    """The files of a vLLM that says what it is."""
    platforms = f"class current_platform:\n    device_type = {device!r}\n"
    return {"vllm/__init__.py": f"{extra}\n__version__ = {version!r}\n", "vllm/platforms.py": platforms}
