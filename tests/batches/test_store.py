"""Files and batches on the disk: how much and how long, for whom, and what a crash leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmserve.batches.lines import Problem
from llmserve.batches.records import BatchRecord, FileRecord
from llmserve.batches.store import BatchStore, Bounds
from llmserve.errors import Conflict, InsufficientStorage, InvalidRequest, NotFound, StartupFailed, TooManyRequests
from tests.batches.makers import USAGE, answer

BOUNDS = Bounds(disk_bytes=1000, seconds=100, files=3, batches=2, unfinished=2)


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[BatchStore]:
    store = BatchStore(tmp_path / "batches", BOUNDS, clock)
    yield store
    store.close()


def uploaded(store: BatchStore, content: bytes = b"x", seconds: float | None = None) -> FileRecord:
    upload = store.upload()
    upload.write(content)
    return store.keep(upload, "in.jsonl", seconds)


def batch(file: FileRecord, id: str = "batch_1") -> BatchRecord:
    return BatchRecord(id, "/v1/completions", file.id, "24h", 1000.0, 90_000.0)


def below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def finish(store: BatchStore, id: str, *numbers: int, wrong: tuple[int, ...] = ()) -> BatchRecord:
    journal = store.journal(id)
    journal.add([*(answer(number) for number in numbers), *(answer(number, status=400) for number in wrong)])
    store.finish(store.batch(id), journal, "completed")
    return store.batch(id)


def test_a_file_is_kept_as_it_came_for_its_owner_alone(store: BatchStore, tmp_path: Path) -> None:
    file = uploaded(store, b"content")
    assert (file.size_bytes, file.created_at, file.expires_at) == (7, 1000, 1100)
    assert store.path(file.id).read_bytes() == b"content"
    assert store.files() == [file]
    for path in [*tmp_path.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    store.delete_file(file.id)
    assert below(tmp_path / "batches" / "files") == []
    for missing in (store.file, store.path, store.delete_file):
        with pytest.raises(NotFound):
            missing(file.id)


def test_everything_survives_the_process(store: BatchStore, tmp_path: Path, clock: Clock) -> None:
    file = uploaded(store)
    store.add(batch(file))
    problems = (Problem("code", "message", "param", 3),)
    changed = store.change("batch_1", lambda batch: replace(batch.now("failed", 5.0), problems=problems))
    store.close()
    again = BatchStore(tmp_path / "batches", BOUNDS, clock)
    assert (again.files(), again.batches()) == ([file], [changed])
    assert again.batch("batch_1").problems == problems
    again.close()


def test_one_process_has_it(store: BatchStore, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="another server"):
        BatchStore(tmp_path / "batches", BOUNDS)


def test_what_a_crash_has_left_is_deleted(tmp_path: Path, clock: Clock) -> None:
    store = BatchStore(tmp_path / "batches", BOUNDS, clock)
    file = uploaded(store)
    store.add(batch(file))
    store.journal("batch_1").close()
    (tmp_path / "batches" / "files" / "file-half.incoming").write_bytes(b"half")
    (tmp_path / "batches" / "files" / "file-unnamed").write_bytes(b"x")
    (tmp_path / "batches" / "journals" / "batch_2").write_bytes(b"x")
    store.close()
    BatchStore(tmp_path / "batches", BOUNDS, clock).close()
    assert below(tmp_path / "batches" / "files") == [file.id]
    assert below(tmp_path / "batches" / "journals") == ["batch_1"]


def test_a_database_that_is_none_is_an_error_with_a_hint(tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    folder.mkdir(mode=0o700)
    (folder / "batches.db").write_bytes(b"no database" * 1000)
    for _ in range(2):  # The first attempt must not keep the lock.
        with pytest.raises(StartupFailed, match="cannot be used") as raised:
            BatchStore(folder, BOUNDS)
        assert raised.value.hint is not None


def test_a_file_that_cannot_be_named_does_not_stay(
    store: BatchStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(file: FileRecord) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(store, "_insert", crash)
    upload = store.upload()
    upload.write(b"x")
    with pytest.raises(sqlite3.OperationalError):
        store.keep(upload, "in.jsonl", None)
    store.discard(upload)
    assert below(tmp_path / "batches" / "files") == []


# --- bounds ---


def test_there_is_room_for_so_many_bytes(store: BatchStore, tmp_path: Path) -> None:
    uploaded(store, b"x" * 400)
    first, second = store.upload(), store.upload()
    first.write(b"x" * 400)
    with pytest.raises(InsufficientStorage, match="all the room"):
        second.write(b"x" * 201)
    store.discard(second)
    first.write(b"x" * 200)
    store.discard(first)
    assert len(below(tmp_path / "batches" / "files")) == 1
    assert uploaded(store, b"x" * 600).size_bytes == 600


def test_there_are_so_many_files(store: BatchStore) -> None:
    for _ in range(3):
        uploaded(store)
    with pytest.raises(InsufficientStorage, match="3 files"):
        store.upload()


def test_files_go_when_they_are_old_unless_a_batch_needs_them(store: BatchStore, clock: Clock, tmp_path: Path) -> None:
    needed, other, short = uploaded(store), uploaded(store), uploaded(store, seconds=10)
    store.add(batch(needed))
    clock.seconds += 50
    with pytest.raises(NotFound):
        store.file(short.id)
    assert [file.id for file in store.files()] == [needed.id, other.id]
    clock.seconds += 51
    store.sweep()
    assert below(tmp_path / "batches" / "files") == [needed.id]
    assert store.path(needed.id).exists()
    finish(store, "batch_1")
    store.sweep()
    assert below(tmp_path / "batches" / "files") == []


def test_batches_go_when_they_are_old_or_many_once_they_are_final(store: BatchStore, clock: Clock) -> None:
    file = uploaded(store, seconds=1000)
    for number in range(4):
        store.add(batch(file, f"batch_{number}"))
        if number < 3:
            finish(store, f"batch_{number}")
    store.sweep()
    assert [found.id for found in store.batches()] == ["batch_1", "batch_2", "batch_3"]
    clock.seconds += 101
    store.sweep()
    assert [found.id for found in store.batches()] == ["batch_3"]


def test_so_many_batches_wait(store: BatchStore) -> None:
    file = uploaded(store)
    store.add(batch(file, "a"))
    store.add(batch(file, "b"))
    with pytest.raises(TooManyRequests):
        store.add(batch(file, "c"))


def test_a_batch_has_an_input_file(store: BatchStore) -> None:
    file = uploaded(store)
    store.delete_file(file.id)
    with pytest.raises(InvalidRequest) as raised:
        store.add(batch(file))
    assert (raised.value.param, raised.value.code) == ("input_file_id", "file_not_found")
    with pytest.raises(NotFound):
        store.batch("batch_1")


# --- the end of a batch ---


def test_a_batch_ends_with_its_files(store: BatchStore, tmp_path: Path) -> None:
    store.add(replace(batch(uploaded(store)), output_seconds=20))
    final = finish(store, "batch_1", 2, 1, wrong=(3,))
    assert (final.status, final.completed, final.failed) == ("completed", 2, 1)
    assert final.usage == USAGE + USAGE
    assert final.output_file_id is not None
    assert final.error_file_id is not None
    output, error = store.file(final.output_file_id), store.file(final.error_file_id)
    assert (output.purpose, output.filename, output.expires_at) == ("batch_output", "batch_1_output.jsonl", 1020)
    assert error.filename == "batch_1_error.jsonl"
    assert store.path(output.id).read_bytes().count(b"\n") == 2
    assert output.size_bytes == store.path(output.id).stat().st_size
    assert below(tmp_path / "batches" / "journals") == []


def test_there_is_no_file_without_answers(store: BatchStore) -> None:
    store.add(batch(uploaded(store)))
    final = finish(store, "batch_1", wrong=(1,))
    assert (final.output_file_id is None, final.error_file_id is None) == (True, False)


def test_an_end_that_was_interrupted_is_repeated(
    store: BatchStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(batch(uploaded(store)))
    journal = store.journal("batch_1")
    journal.add([answer(1)])
    with monkeypatch.context() as failing:

        def crash(batch: BatchRecord) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        failing.setattr(store, "_update", crash)
        with pytest.raises(sqlite3.OperationalError):
            store.finish(store.batch("batch_1"), journal, "completed")
    assert (store.batch("batch_1").status, len(store.files())) == ("validating", 1)
    assert len(below(tmp_path / "batches" / "files")) == 1
    store.finish(store.batch("batch_1"), journal, "completed")
    assert (store.batch("batch_1").status, len(store.files())) == ("completed", 2)
