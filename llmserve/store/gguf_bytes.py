"""The bytes of a GGUF header, read on demand and within bounds.

Nothing here is allocated because a file says so: a length is compared with what is left before a byte is read. The
file is read, not mapped: when somebody truncates a mapped file, reading the lost pages kills the whole process.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from llmserve.errors import InvalidModel
from llmserve.store.gguf_types import NUMBER_FORMATS, ValueType

# The longest headers of published models (a quarter of a million tokens, half a million merges) take about 16 MiB. This
# much still fits the bounds of one inspection, 1 s and 64 MB, whatever is in it.
HEADER_LIMIT_BYTES = 24 * 1024 * 1024
STRING_LIMIT_BYTES = 16 * 1024 * 1024
_FIRST_READ_BYTES = 1024 * 1024

_LENGTH = struct.Struct("<Q")
_NUMBERS = {kind: struct.Struct(f"<{code}") for kind, code in NUMBER_FORMATS.items()}


def refuse(problem: str, *, hint: str | None = None) -> NoReturn:
    """Raise the `InvalidModel` for a GGUF file that has this `problem`."""
    raise InvalidModel(f"invalid GGUF file: {problem}", hint=hint)


def quoted(text: str | bytes, limit: int = 60) -> str:
    """Text of a file, fit for a message or a log line: printable ASCII in quotes, the rest escaped, cut at `limit`."""
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "replace")
    return ascii(text[:limit]) + ("..." if len(text) > limit else "")


class HeaderBytes:
    """A cursor over the start of a file. Every method that reads raises `InvalidModel` when the bytes are not there.

    `what` names the thing being read, for the message. `position` is the offset of the next byte.
    """

    def __init__(self, descriptor: int, file_size_bytes: int) -> None:
        self.file_size_bytes = file_size_bytes
        self.position = 0
        self._descriptor = descriptor
        self._limit = min(file_size_bytes, HEADER_LIMIT_BYTES)
        self._data = b""

    @property
    def left_bytes(self) -> int:
        """How many bytes the rest of the header can have at most."""
        return self._limit - self.position

    def number(self, kind: ValueType, what: str) -> int | float:
        """One little-endian number; a BOOL comes as the integer that is stored."""
        form = _NUMBERS[kind]
        start = self.skip(form.size, what)
        value: int | float = form.unpack_from(self._data, start)[0]
        return value

    def unsigned32(self, what: str) -> int:
        return int(self.number(ValueType.UINT32, what))

    def unsigned64(self, what: str) -> int:
        return int(self.number(ValueType.UINT64, what))

    def skip(self, size_bytes: int, what: str) -> int:
        """Move past `size_bytes` bytes that must exist; returns where they start."""
        start = self.position
        self._require(start + size_bytes, what)
        self.position = start + size_bytes
        return start

    def take(self, size_bytes: int, what: str) -> bytes:
        start = self.skip(size_bytes, what)
        return self._data[start : self.position]

    def string(self, what: str) -> bytes:
        """A length and that many bytes."""
        return self.take(self._string_length(what), what)

    def skip_string(self, what: str) -> int:
        """Move past a string; returns its length in bytes."""
        length = self._string_length(what)
        self.skip(length, what)
        return length

    def strings(self, count: int, what: str, *, keep: bool) -> list[bytes]:
        """Move past `count` strings; returns them, or an empty list unless `keep`.

        Vocabularies have hundreds of thousands of entries, so this loop does nothing but check and advance.
        """
        kept: list[bytes] = []
        append, read_length = kept.append, _LENGTH.unpack_from
        data, size, position = self._data, len(self._data), self.position
        for _ in range(count):
            start = position + 8
            if start > size:
                self.position = position
                data = self._require(start, what)
                size = len(data)
            end = start + read_length(data, position)[0]
            if end > size:
                self.position = position
                data = self._require(end, what)
                size = len(data)
            if keep:
                append(data[start:end])
            position = end
        self.position = position
        return kept

    def _string_length(self, what: str) -> int:
        length = self.unsigned64(what)
        if length > STRING_LIMIT_BYTES:
            refuse(f"{what} at byte {self.position} is said to have {length} bytes, over {STRING_LIMIT_BYTES}")
        return length

    def _require(self, end: int, what: str) -> bytes:
        """Make the bytes up to `end` available, and return all that are."""
        if end <= len(self._data):
            return self._data
        if end > self.file_size_bytes:
            refuse(f"{what} at byte {self.position} goes past the end of the file ({self.file_size_bytes} bytes)")
        if end > self._limit:
            refuse(f"{what} at byte {self.position} is beyond {HEADER_LIMIT_BYTES} bytes, the longest header accepted")
        size = max(len(self._data), _FIRST_READ_BYTES)
        while size < end:
            size *= 2
        self._data = os.pread(self._descriptor, min(size, self._limit), 0)
        if end > len(self._data):
            refuse(f"{what} at byte {self.position} could not be read: the file became shorter")
        return self._data


@contextmanager
def open_header(path: Path) -> Iterator[HeaderBytes]:
    """Open a file for `HeaderBytes`. Raises `InvalidModel` if it is not a regular file or cannot be read."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise InvalidModel(f"the model file cannot be opened: {_reason(error)}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModel("the model is not a regular file")
        yield HeaderBytes(descriptor, status.st_size)
    except OSError as error:
        raise InvalidModel(f"the model file cannot be read: {_reason(error)}") from error
    finally:
        os.close(descriptor)


def _reason(error: OSError | ValueError) -> str:
    # The text of an OSError as a whole would name the path.
    return (error.strerror if isinstance(error, OSError) else None) or "its name is not valid"
