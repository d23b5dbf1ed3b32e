"""Files and batches on the disk: a directory that one process at a time has to itself.

    batches.db          what is remembered of each
    files/<id>          the bytes of a file
    journals/<id>       the answers of a batch that is not final
    lock                held by the process that uses the directory

A file is whole on the disk before the database names it, and is no longer named before it is deleted; so what a crash
leaves over is a file without a name, which the next opening deletes.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmserve.batches.journal import Journal
from llmserve.batches.records import FINAL, BatchRecord, FileRecord, Status, new_file_id
from llmserve.batches.upload import Upload
from llmserve.errors import (
    Conflict,
    InsufficientStorage,
    InvalidRequest,
    NotFound,
    StartupFailed,
    TooManyRequests,
)
from llmserve.store.files import private_directory
from llmserve.store.locks import take_lock
from llmserve.types import from_json, to_json

DIRECTORY = "batches"

_BUSY_SECONDS = 10.0
_DELETE_FILES = "delete some with `DELETE /v1/files/ID`"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY,
    expires_at REAL NOT NULL,
    size_bytes INTEGER NOT NULL,
    record TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    record TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: bytes of files together, files, batches, batches that are not final; and for how long."""

    disk_bytes: int = 10_000_000_000
    seconds: float = 30 * 86_400.0
    files: int = 10_000
    batches: int = 10_000
    unfinished: int = 1000


class BatchStore:
    """The files and batches in `directory`. Blocks; use it and its uploads in one thread. `close` it.

    Raises `Conflict` where another process has the directory, and `InsufficientStorage` or `StartupFailed` where it
    cannot be used. The methods raise `sqlite3.Error` and `OSError` where the disk fails.
    """

    def __init__(self, directory: Path, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._bounds = bounds
        self._uploads: set[Upload] = set()
        self._files = private_directory(directory) / "files"
        self._journals = directory / "journals"
        other = Conflict(
            "another server of this machine keeps the files and batches",
            hint="ask that one, or give this one a data directory of its own with LLMSERVE_HOME",
        )
        self._lock = take_lock(directory / "lock", other)
        try:
            for folder in (self._files, self._journals):
                private_directory(folder)
            self._database = _open(directory / "batches.db")
            self._delete_unnamed()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """End it, and the uploads. Harmless when repeated."""
        for upload in self._uploads:
            upload.discard()
        self._database.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    # --- files ---

    def upload(self) -> Upload:
        """A file that is about to come: `keep` or `discard` it. Raises `InsufficientStorage` where none may."""
        if self._number("SELECT count(*) FROM files") >= self._bounds.files:
            raise InsufficientStorage(f"{self._bounds.files} files are kept already", hint=_DELETE_FILES)
        upload = Upload(self._files / new_file_id(), self._has_room_for)
        self._uploads.add(upload)
        return upload

    def keep(self, upload: Upload, filename: str, seconds: float | None) -> FileRecord:
        """Keep what was uploaded, for `seconds` (None: as long as all files)."""
        upload.publish()
        record = self._record(upload, filename, "batch", seconds)
        self._insert(record)
        self._uploads.discard(upload)
        return record

    def discard(self, upload: Upload) -> None:
        """Delete what came. Harmless for one that is kept."""
        if upload in self._uploads:
            self._uploads.discard(upload)
            upload.discard()

    def files(self) -> list[FileRecord]:
        """All files, the oldest first."""
        rows = self._rows("SELECT record FROM files WHERE expires_at > ? ORDER BY rowid", (self._clock(),))
        return [from_json(FileRecord, text) for (text,) in rows]

    def file(self, id: str) -> FileRecord:
        """Raises `NotFound`."""
        found = self._rows("SELECT record FROM files WHERE id = ? AND expires_at > ?", (id, self._clock()))
        if not found:
            raise NotFound("there is no file with this id, or it is not kept any more", code="file_not_found")
        return from_json(FileRecord, found[0][0])

    def path(self, id: str) -> Path:
        """Where the bytes of a file lie, for as long as an unfinished batch needs it. Raises `NotFound`."""
        if not self._rows("SELECT id FROM files WHERE id = ?", (id,)):
            self.file(id)
        return self._files / id

    def delete_file(self, id: str) -> None:
        """Raises `NotFound`."""
        self._forget_file(self.file(id).id)

    # --- batches ---

    def add(self, batch: BatchRecord) -> None:
        """Raises `TooManyRequests` where too many wait already, and `InvalidRequest` where there is no input file."""
        self.sweep()
        try:
            self.file(batch.input_file_id)
        except NotFound as error:
            raise InvalidRequest(error.message, param="input_file_id", code=error.code) from None
        if len(self.unfinished()) >= self._bounds.unfinished:
            raise TooManyRequests(f"{self._bounds.unfinished} batches are waiting", retry_after=60)
        row = (batch.id, batch.status, to_json(batch))
        self._database.execute("INSERT INTO batches (id, status, record) VALUES (?, ?, ?)", row)

    def batch(self, id: str) -> BatchRecord:
        """Raises `NotFound`."""
        found = self._rows("SELECT record FROM batches WHERE id = ?", (id,))
        if not found:
            raise NotFound("there is no batch with this id, or it is not kept any more", code="batch_not_found")
        return from_json(BatchRecord, found[0][0])

    def batches(self) -> list[BatchRecord]:
        """All batches, the oldest first."""
        return [from_json(BatchRecord, text) for (text,) in self._rows("SELECT record FROM batches ORDER BY rowid")]

    def unfinished(self) -> list[BatchRecord]:
        """Those that are not final, the oldest first."""
        statuses = ", ".join(f"'{status}'" for status in FINAL)
        rows = self._rows(f"SELECT record FROM batches WHERE status NOT IN ({statuses}) ORDER BY rowid")  # noqa: S608 - constants
        return [from_json(BatchRecord, text) for (text,) in rows]

    def change(self, id: str, change: Callable[[BatchRecord], BatchRecord]) -> BatchRecord:
        """Replace a batch by what `change` makes of it. Raises `NotFound`."""
        batch = change(self.batch(id))
        self._update(batch)
        return batch

    def journal(self, id: str) -> Journal:
        """The answers of a batch that is not final; the caller closes it. Raises as `Journal` does."""
        return Journal(self._journals / id, id)

    def finish(self, batch: BatchRecord, journal: Journal, status: Status) -> None:
        """Make the answers in `journal` the files of `batch`, and it final, in one step, and remove the journal."""
        with ExitStack() as made:
            output = self._answers(batch, journal, made, ok=True)
            error = self._answers(batch, journal, made, ok=False)
            final = replace(
                batch.now(status, self._clock()),
                completed=journal.completed,
                failed=journal.failed,
                usage=journal.usage,
                output_file_id=None if output is None else output.id,
                error_file_id=None if error is None else error.id,
            )
            with self._database:
                self._database.execute("BEGIN")
                for file in (output, error):
                    if file is not None:
                        self._insert(file)
                self._update(final)
            made.pop_all()
        journal.remove()

    def sweep(self) -> None:
        """Forget files that are too old, those of unfinished batches excepted, and batches that are, or too many."""
        now = self._clock()
        needed = {batch.input_file_id for batch in self.unfinished()}
        for (id,) in self._rows("SELECT id FROM files WHERE expires_at <= ?", (now,)):
            if id not in needed:
                self._forget_file(id)
        final = [batch for batch in self.batches() if batch.is_final]
        surplus = len(final) - self._bounds.batches
        for number, batch in enumerate(final):
            if number < surplus or max(batch.reached.values()) <= now - self._bounds.seconds:
                self._database.execute("DELETE FROM batches WHERE id = ?", (batch.id,))

    # --- within ---

    def _has_room_for(self, upload: Upload) -> bool:
        used = self._number("SELECT coalesce(sum(size_bytes), 0) FROM files")
        return used + sum(other.size_bytes for other in {*self._uploads, upload}) <= self._bounds.disk_bytes

    def _answers(self, batch: BatchRecord, journal: Journal, made: ExitStack, *, ok: bool) -> FileRecord | None:
        """A file with the answers, which nothing names yet and `made` deletes; None where there are none."""
        upload = Upload(self._files / new_file_id(), lambda _: True)
        made.callback(upload.discard)
        if not journal.copy(upload.write, ok=ok):
            upload.discard()
            return None
        upload.publish()
        filename = f"{batch.id}_{'output' if ok else 'error'}.jsonl"
        return self._record(upload, filename, "batch_output", batch.output_seconds)

    def _record(
        self, upload: Upload, filename: str, purpose: Literal["batch", "batch_output"], seconds: float | None
    ) -> FileRecord:
        now = self._clock()
        expires_at = now + (self._bounds.seconds if seconds is None else seconds)
        return FileRecord(upload.path.name, filename, purpose, upload.size_bytes, now, expires_at)

    def _insert(self, file: FileRecord) -> None:
        row = (file.id, file.expires_at, file.size_bytes, to_json(file))
        self._database.execute("INSERT INTO files (id, expires_at, size_bytes, record) VALUES (?, ?, ?, ?)", row)

    def _update(self, batch: BatchRecord) -> None:
        row = (batch.status, to_json(batch), batch.id)
        self._database.execute("UPDATE batches SET status = ?, record = ? WHERE id = ?", row)

    def _forget_file(self, id: str) -> None:
        self._database.execute("DELETE FROM files WHERE id = ?", (id,))
        (self._files / id).unlink(missing_ok=True)

    def _delete_unnamed(self) -> None:
        """What a process that was killed had not named yet, or had no time to delete."""
        named = {id for (id,) in self._rows("SELECT id FROM files")}
        unfinished = {batch.id for batch in self.unfinished()}
        for folder, kept in ((self._files, named), (self._journals, unfinished)):
            for path in folder.iterdir():
                if path.name not in kept:
                    path.unlink(missing_ok=True)

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        return self._database.execute(query, values).fetchall()

    def _number(self, query: str) -> int:
        return int(self._rows(query)[0][0])


def _open(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    # Opened, used and closed in the thread of the store, which is not that of its first use after a failure.
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # What a client was told of is on the disk.
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_SCHEMA)
    except sqlite3.DatabaseError as error:
        database.close()
        raise StartupFailed(
            f"the database of files and batches cannot be used: {error}", hint=f"move {path} away to begin anew"
        ) from error
    return database
