"""Pip, working on another environment: the user's own configuration, mirrors, proxies and certificates apply."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from llmserve.engines.progress import PipReader, Report

_LONGEST_REASON = 300
_REMEMBERED_LINES = 200

_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded")
_NOT_FOUND = re.compile(r"No matching distribution found for (\S+)")
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError|ReadTimeoutError|ConnectionError"
    r"|Failed to establish a new connection"
)
# Lines by which a compiler or a build tool says why it stops.
_BUILD_ERROR = re.compile(r"(?:\bfatal error:|\berror:|CMake Error).*")


class PipFailed(Exception):
    """Pip ended without doing what it should; `str(error)` is its reason. Becomes an `InstallFailed`.

    `not_found`: the requirement that no index has. `no_room`: the disk is full. `unreachable`: an index did not answer.
    """

    def __init__(self, reason: str, *, not_found: str | None, no_room: bool, unreachable: bool) -> None:
        super().__init__(reason)
        self.not_found = not_found
        self.no_room = no_room
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Pip:
    """Pip of this Python, for the environment of `python`.

    Its temporary files are in `temporary`; what it says goes to `log`; it inherits the descriptor `lock`, so that who
    looks sees that it works, even if this process was killed; `variables` are added to its environment.
    """

    python: Path
    temporary: Path
    log: Path
    lock: int
    variables: Mapping[str, str]

    def install(self, arguments: Sequence[str], report: Report) -> None:
        """Run `pip install`. Blocks; ends pip when interrupted. Raises `PipFailed`."""
        self._run(["install", "--progress-bar", "raw", "--no-warn-script-location", *arguments], report)

    def uninstall(self, distributions: Sequence[str], report: Report) -> None:
        """Run `pip uninstall`; what is not there is no error. Raises `PipFailed`."""
        self._run(["uninstall", "--yes", *distributions], report)

    def _run(self, arguments: Sequence[str], report: Report) -> None:
        command = [sys.executable, "-P", "-m", "pip", "--python", str(self.python)]
        command += ["--no-input", "--disable-pip-version-check", *arguments]
        environment = {**os.environ, "TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1", **self.variables}
        # They would have pip look into other environments than the one it is to work on.
        for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV"):
            environment.pop(name, None)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ pip {' '.join(arguments)}\n")
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(self.lock,),
                # A group of its own: pip starts pip, a compiler and more, and all of them are to end with it.
                start_new_session=True,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            with process:
                try:
                    lines = _follow(process, log, report)
                except BaseException:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    raise
        if process.returncode != 0:
            raise failure(lines)


def _follow(process: subprocess.Popen[str], log: TextIO, report: Report) -> list[str]:
    """Report progress until pip ends; returns the last lines that were none."""
    reader = PipReader()
    lines: deque[str] = deque(maxlen=_REMEMBERED_LINES)
    for line in process.stdout or ():
        progress = reader.read(line)
        if progress is not None:
            report(progress)
        if progress is None or progress.stage != "downloading":
            log.write(line)
            log.flush()
            lines.append(line.strip())
    return list(lines)


def failure(lines: Sequence[str]) -> PipFailed:
    """Why pip failed, from the lines it ended with."""
    text = "\n".join(lines)
    missing = _NOT_FOUND.search(text)
    return PipFailed(
        _reason(lines)[:_LONGEST_REASON],
        not_found=missing[1] if missing else None,
        no_room=bool(_NO_ROOM.search(text)),
        unreachable=bool(_UNREACHABLE.search(text)),
    )


def _reason(lines: Sequence[str]) -> str:
    """A compiler's first error, else pip's last, else the last line."""
    for line in lines:
        if (match := _BUILD_ERROR.search(line)) and not line.startswith(("ERROR:", "error:", "×")):
            return match[0]
    said = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    if said:
        return said[-1]
    return next((line for line in reversed(lines) if line), "it ended without a word")
