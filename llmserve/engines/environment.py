"""Environments of engines: virtual environments under the data directory, each whole or not there at all.

`$LLMSERVE_HOME/engines/<engine>-<version>-<device>/` is a virtual environment with a record of what it is. The record
is written last, into a directory that is renamed into place afterwards, so a folder with a record is complete.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from llmserve.types import Device, Engine, from_json

RECORD = "llmserve.json"
# Beside the environments; its name is none of theirs.
SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class Record:
    """What an environment is: written once, when it is complete.

    `version` is that of the distribution that carries the engine ("0.32.0", "0.32.0+cu129"); `python` the Python it was
    made for ("3.11"); `installed_at` seconds of the epoch; `packages` the number of distributions in it.
    """

    engine: Engine
    distribution: str
    version: str
    device: Device
    python: str
    installed_at: float
    size_bytes: int
    packages: int


@dataclass(frozen=True, slots=True)
class Environment:
    """A complete environment: its folder and its record."""

    folder: Path
    record: Record

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def python(self) -> Path:
        """Its interpreter, which may be gone: it is a link to the Python that made the environment."""
        return interpreter(self.folder)

    @property
    def site_packages(self) -> Path:
        return site_packages(self.folder, self.record.python)


def engines_directory(home: Path) -> Path:
    """Where the environments are, under the data directory `home`."""
    return home / "engines"


def folder_name(engine: Engine, version: str, device: Device) -> str:
    return f"{engine}-{version}-{device}"


def interpreter(folder: Path) -> Path:
    """The interpreter of the virtual environment in `folder`."""
    return folder / "bin" / "python"


def site_packages(folder: Path, python: str) -> Path:
    """Where the virtual environment in `folder`, of Python `python` ("3.11"), has its packages."""
    return folder / "lib" / f"python{python}" / "site-packages"


def environments(home: Path, engine: Engine | None = None) -> list[Environment]:
    """The complete environments (of `engine`) under the data directory, the latest first. Reads files only."""
    found = [
        Environment(path.parent, record)
        for path in engines_directory(home).glob(f"*/{RECORD}")
        if (record := _read(path)) is not None and engine in {None, record.engine}
    ]
    return sorted(found, key=lambda environment: environment.record.installed_at, reverse=True)


def _read(path: Path) -> Record | None:
    """The record in a file; None where it is none, which makes its folder no environment."""
    try:
        return from_json(Record, path.read_bytes())
    except (OSError, ValueError):
        return None


def users(folder: Path) -> list[int]:
    """The processes that run in the environment in `folder`: by its interpreter, or with its packages on their path."""
    import psutil  # type: ignore[import-untyped]

    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        # None where the system does not let this user see it: then it is somebody else's.
        words = [*(process.info["cmdline"] or ())[:1], (process.info["environ"] or {}).get("PYTHONPATH", "")]
        if any(word.startswith(f"{folder}{os.sep}") for word in words):
            found.append(process.info["pid"])
    return found


def now() -> float:
    return time.time()
