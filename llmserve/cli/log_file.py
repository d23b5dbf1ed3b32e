"""The log of one model's workers, read from its end on and over the ends of runs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 64 * 1024
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


class LogFile:
    """`path` holds the run of now or the latest one, `previous` the one before it, where there is one.

    Raises `FileNotFoundError` where there is no log. All methods block on the disk.
    """

    def __init__(self, path: Path, previous: Path) -> None:
        self._path = path
        self._previous = previous
        self._file: BinaryIO = path.open("rb")
        self._unfinished = b""
        self._line_is_open = False

    def close(self) -> None:
        self._file.close()

    def last(self, count: int) -> str:
        """The last `count` lines, those of the run before too where this one has fewer; `more` goes on behind them."""
        lines = _last_lines(self._file, count)
        if len(lines) < count:
            try:
                with self._previous.open("rb") as file:
                    lines = _last_lines(file, count - len(lines)) + lines
            except FileNotFoundError:
                pass
        self._line_is_open = bool(lines) and not lines[-1].endswith(b"\n")
        return _text(b"".join(lines))

    def more(self) -> str:
        """The whole lines that were written since the last call, in the next run too once there is one."""
        written = self._unfinished + self._file.read()
        if (following := self._next_run()) is not None:
            written += self._file.read()
            if (written or self._line_is_open) and not written.endswith(b"\n"):
                written += b"\n"
            self._file.close()
            self._file = following
            written += following.read()
        whole, newline, self._unfinished = written.rpartition(b"\n")
        self._line_is_open = self._line_is_open and not newline
        return _text(whole + newline)

    def _next_run(self) -> BinaryIO | None:
        """The file that stands at the path now, if that is another than the one which is read."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return None
        if os.path.sameopenfile(file.fileno(), self._file.fileno()):
            file.close()
            return None
        return file


def _last_lines(file: BinaryIO, count: int) -> list[bytes]:
    """The last lines of `file`, each with its end; the file is then read to the end of what it held."""
    end = begin = file.seek(0, os.SEEK_END)
    found = b""
    while begin and found.count(b"\n") <= count:
        block = min(begin, max(_BLOCK_BYTES, len(found)))
        begin = file.seek(begin - block)
        found = file.read(block) + found
    file.seek(end)
    return _LINE.findall(found)[-count:] if count else []


def _text(lines: bytes) -> str:
    return lines.decode(errors="replace")
