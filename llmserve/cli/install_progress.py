"""How the installation of an engine shows itself to a person."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from llmserve.cli.terminal import bytes_text, printable, talk

if TYPE_CHECKING:
    from rich.status import Status

    from llmserve.engines.progress import InstallProgress

# What a log gets a line for: packages whose download takes a while, and each stage once.
_LARGE_BYTES = 50 * 2**20


class ShownProgress:
    """A context that takes progress: on a terminal one line that changes, elsewhere a line for each stage.

    Lines that stay are those that a person would look for afterwards: the disk check, and large downloads.
    """

    def __init__(self) -> None:
        self._status: Status | None = None
        self._last: tuple[str, str | None] = ("", None)
        self._downloaded = 0
        self._current = 0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def report(self, progress: InstallProgress) -> None:
        """Show one step."""
        if progress.stage == "checking" and progress.total is not None:
            talk(f"about {bytes_text(progress.total)} are needed, {bytes_text(progress.free)} are free on the disk")
            return
        self._count(progress)
        if self._status is not None:
            from rich.markup import escape

            self._status.update(escape(printable(self._line(progress))))
        elif (step := self._step(progress)) != self._last:
            self._last = step
            talk(self._line(progress))

    def _step(self, progress: InstallProgress) -> tuple[str, str | None]:
        """What makes a new line in a log."""
        large = progress.stage == "downloading" and (progress.total or 0) >= _LARGE_BYTES
        if progress.stage == "downloading" and not large:
            return self._last
        if progress.stage == "resolving" and self._last[0] in {"resolving", "downloading"}:
            # Pip does both in turns.
            return self._last
        tenth = ""
        if progress.stage == "building" and progress.completed and progress.total:
            tenth = f" {10 * progress.completed // progress.total}"
        named = large or progress.stage in {"building", "removing", "verifying"}
        return progress.stage + tenth, progress.package if named else None

    def _count(self, progress: InstallProgress) -> None:
        """Keep the bytes that were downloaded in all."""
        if progress.stage != "downloading" or not progress.completed:
            self._downloaded, self._current = self._downloaded + self._current, 0
        else:
            self._current = progress.completed

    def _line(self, progress: InstallProgress) -> str:
        package = f" {progress.package}" if progress.package else ""
        if progress.stage == "downloading" and progress.total:
            part = f"{bytes_text(progress.completed or 0)} of " if self._status is not None else ""
            in_all = f", {bytes_text(self._downloaded + self._current)} in all" if self._downloaded else ""
            return f"downloading{package}: {part}{bytes_text(progress.total)}{in_all}"
        if progress.stage == "installing" and progress.total:
            return f"installing {progress.total} packages"
        if progress.stage == "building" and progress.total:
            return f"building{package}: {progress.completed} of {progress.total}"
        if progress.stage == "resolving" and self._status is None:
            return "resolving what is needed"
        return f"{progress.stage}{package}"
