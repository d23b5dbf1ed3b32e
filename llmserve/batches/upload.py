"""A file while it comes: under a name of its own until it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llmserve.errors import InsufficientStorage, StartupFailed
from llmserve.store.files import rename_durably, storage_errors


class Upload:
    """The file that will be at `path`; made, with mode 0600, beside it. Blocks; `publish` or `discard` it.

    `has_room` says, after it has grown, whether there is room for it. All methods raise `InsufficientStorage` where the
    disk is full.
    """

    def __init__(self, path: Path, has_room: Callable[[Upload], bool]) -> None:
        self.path = path
        self.size_bytes = 0
        self._has_room = has_room
        self._incoming = path.with_suffix(".incoming")
        with storage_errors("keep the file", StartupFailed):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._incoming, flags, 0o600), "wb")

    def write(self, data: bytes) -> int:
        """Raises `InsufficientStorage` where there is no room for it."""
        self.size_bytes += len(data)
        if not self._has_room(self):
            raise InsufficientStorage(
                "the files that are kept take all the room they may",
                hint="delete some with `DELETE /v1/files/ID`, or raise the setting `batch_disk`",
            )
        with storage_errors("keep the file", StartupFailed):
            return self._file.write(data)

    def publish(self) -> None:
        """Return when the file is whole on the disk, under its own name."""
        with storage_errors("keep the file", StartupFailed):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            rename_durably(self._incoming, self.path)

    def discard(self) -> None:
        """Delete what came, published or not. Harmless when repeated."""
        with suppress(OSError):  # What it could not write any more is not wanted.
            self._file.close()
        for path in (self._incoming, self.path):
            path.unlink(missing_ok=True)
