"""What a worker writes to its standard error, kept in a private file of the model's own."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

_TAIL_BYTES = 4096
_TAIL_LINES = 5


class WorkerLog:
    """`<directory>/<model>.log`, mode 0600, holds the latest run; the run before it is kept beside it as `.log.1`.

    All methods block on the disk.
    """

    def __init__(self, directory: Path, model: str) -> None:
        # Quoting keeps the name inside the directory and unique; the end of a long name is what tells it from others.
        self.path = directory / f"{quote(model, safe=':')[-200:]}.log"

    def open(self) -> int:
        """Begin a new run: a descriptor to append to, which the caller closes."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.exists():
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tail(self) -> str:
        """The last lines of the latest run, at most 4 KiB and without control characters; empty if there are none."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                text = file.read(_TAIL_BYTES).decode(errors="replace")
        except FileNotFoundError:
            return ""
        lines = ["".join(character for character in line if character.isprintable()) for line in text.splitlines()]
        return "\n".join([line for line in lines if line.strip()][-_TAIL_LINES:])
