"""Which lines of a batch are answered, and how: a file that only grows, and survives whatever ends its writer.

    llmserve-batch 1 KEY
    CRC32 NUMBER OK INPUT CACHED OUTPUT REASONING {"id": ...}
    ...

One record is one line. It counts once it is on the disk; what an interrupted write left behind the last sound record
is cut off at the next opening, and its lines are answered again. No second record is written for a line, so that each
has one answer however often the work on it was begun.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO

from llmserve.batches.answers import Answer, Usage
from llmserve.errors import Conflict
from llmserve.store.files import fsync_directory
from llmserve.store.locks import take_lock

_MAGIC = b"llmserve-batch 1 "
_FIELDS = 7


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the file a line's answer lies, without the newline."""

    offset: int
    size_bytes: int
    ok: bool


class WrongJournal(Exception):
    """The journal belongs to other input."""


class Journal:
    """The journal at `path` for the input that `key` (one word) stands for; made, with mode 0600, where there is none.

    Its methods block on the disk, and several threads may call them. One process at a time has it open: raises
    `Conflict` otherwise, `WrongJournal` where it was begun with another key, and `OSError`. `close` it.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.usage = Usage()
        self.completed = 0
        self.failed = 0
        self._places: dict[int, _Place] = {}
        self._using = threading.Lock()
        self._end = 0
        self._descriptor = take_lock(path, Conflict("another process is at work on this batch"))
        try:
            self._recover(_MAGIC + key.encode("ascii") + b"\n")
        except BaseException:
            self.close()
            raise

    def __contains__(self, number: int) -> bool:
        """Whether the input line of this number is answered."""
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, answers: Iterable[Answer]) -> None:
        """Write `answers`, and return when they are on the disk. Raises `OSError`; then none of them counts."""
        with self._using:
            fresh = {answer.number: answer for answer in answers if answer.number not in self._places}
            records = [(answer, _record(answer)) for answer in fresh.values()]
            if not records:
                return
            _write_all(self._descriptor, b"".join(record for _, record in records), self._end)
            os.fsync(self._descriptor)
            for answer, record in records:
                self._count(answer.number, record, answer.ok, answer.usage)

    def copy(self, write: Callable[[bytes], object], *, ok: bool) -> int:
        """Write the lines of the output file, or those of the error file, in the order of the input; how many."""
        with self._using:
            places = [place for _, place in sorted(self._places.items()) if place.ok is ok]
            for place in places:
                write(os.pread(self._descriptor, place.size_bytes, place.offset) + b"\n")
        return len(places)

    def close(self) -> None:
        """Close it when whoever uses it now has done so; what comes later fails. Harmless when repeated."""
        with self._using:
            # -1 is nobody's: a thread that comes too late must not write into another file.
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)

    def remove(self) -> None:
        """Close it, and delete the file: what it held lies elsewhere now."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _recover(self, head: bytes) -> None:
        """Read what is sound, and cut off the rest."""
        with open(self._descriptor, "rb", closefd=False) as file:
            first = file.readline(1024)
            if not head.startswith(first):
                raise WrongJournal(f"{self.path} belongs to other input")
            if first == head:
                self._end = len(head)
                for record in _sound_records(file):
                    number, ok, *counts = (int(field) for field in record.split(b" ", _FIELDS)[1:_FIELDS])
                    self._count(number, record, bool(ok), Usage(*counts))
        if self._end == 0:
            # New, or its writer died before it had begun.
            _write_all(self._descriptor, head, 0)
            self._end = len(head)
            os.fsync(self._descriptor)
            fsync_directory(self.path.parent)
        os.ftruncate(self._descriptor, self._end)

    def _count(self, number: int, record: bytes, ok: bool, usage: Usage) -> None:
        if number not in self._places:
            output_bytes = len(record.split(b" ", _FIELDS)[_FIELDS]) - 1
            self._places[number] = _Place(self._end + len(record) - 1 - output_bytes, output_bytes, ok)
            self.completed += ok
            self.failed += not ok
            self.usage += usage
        self._end += len(record)


def _record(answer: Answer) -> bytes:
    counts = " ".join(str(count) for count in astuple(answer.usage))
    content = f"{answer.number} {answer.ok:d} {counts} ".encode() + answer.output + b"\n"
    return b"%08x %b" % (zlib.crc32(content), content)


def _sound_records(file: BinaryIO) -> Iterator[bytes]:
    """The records up to the first that is not whole."""
    for record in file:
        crc, _, content = record.partition(b" ")
        if not record.endswith(b"\n") or crc != b"%08x" % zlib.crc32(content):
            return
        yield record


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
