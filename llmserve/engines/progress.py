"""How far an installation is, read from what pip prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Stage = Literal["checking", "resolving", "downloading", "building", "installing", "removing", "verifying"]


@dataclass(frozen=True, slots=True)
class InstallProgress:
    """`package` is what is worked on, where it is known. `completed` and `total` are bytes while downloading, files
    while building, packages while installing; `free` is what the disk has, told once."""

    stage: Stage
    package: str | None = None
    completed: int | None = None
    total: int | None = None
    free: int | None = None


Report: TypeAlias = Callable[[InstallProgress], None]

# Lines of `pip install --verbose --progress-bar raw`; those of a build are ninja's or make's.
_COLLECTING = re.compile(r"(?:Collecting|Processing) (\S+)")
_DOWNLOADING = re.compile(r"Downloading (\S+)(?: \([^)]*\))?")
_BYTES = re.compile(r"Progress (\d{1,18}) of (\d{1,18})")
_INSTALLING = re.compile(r"Installing collected packages: (.+)")
_BUILDING = re.compile(r"Building wheel for (\S+)")
_NINJA = re.compile(r"\[(\d{1,6})/(\d{1,6})\] ")
_MAKE = re.compile(r"\[ *(\d{1,3})%\] ")
_FILE_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._]*?)-\d[^/]*$")


class PipReader:
    """Turns pip's lines into progress, one after the other."""

    def __init__(self) -> None:
        self._package: str | None = None
        self._is_building = False

    def read(self, line: str) -> InstallProgress | None:
        """What `line` says, None where that is nothing."""
        text = line.strip()
        if match := _BYTES.fullmatch(text):
            return InstallProgress("downloading", self._package, int(match[1]), int(match[2]) or None)
        if self._is_building and (match := _NINJA.match(text)):
            return InstallProgress("building", self._package, int(match[1]), int(match[2]))
        if self._is_building and (match := _MAKE.match(text)):
            return InstallProgress("building", self._package, int(match[1]), 100)
        if match := _INSTALLING.fullmatch(text):
            return InstallProgress("installing", None, 0, match[1].count(",") + 1)
        if match := _BUILDING.match(text):
            self._package, self._is_building = match[1], True
            return InstallProgress("building", self._package)
        if match := _DOWNLOADING.match(text):
            self._package, self._is_building = package_of(match[1]), False
            return InstallProgress("downloading", self._package, 0)
        if match := _COLLECTING.match(text):
            self._package, self._is_building = package_of(match[1]), False
            return InstallProgress("resolving", self._package)
        return None


def package_of(text: str) -> str:
    """The name of a package in a requirement ("numpy<3,>=1.5"), a file name or a path of one."""
    file = text.rpartition("/")[2]
    if file.endswith((".whl", ".metadata", ".tar.gz", ".zip")) and (match := _FILE_NAME.match(file)):
        return match[1].replace("_", "-")
    return re.split(r"[<>=!~;\[ ]", text, maxsplit=1)[0]
