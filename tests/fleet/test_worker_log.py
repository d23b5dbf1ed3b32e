"""The files that workers write their complaints to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmserve.fleet.worker_log import WorkerLog


def write(log: WorkerLog, data: bytes) -> None:
    descriptor = log.open()
    os.write(descriptor, data)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("smollm2:135m", "smollm2:135m.log"),
        ("hf:owner/repo:file.gguf", "hf:owner%2Frepo:file.gguf.log"),
        ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd.log"),
        ("a\nb\0c", "a%0Ab%00c.log"),
    ],
)
def test_a_name_stays_in_its_directory(tmp_path: Path, model: str, file: str) -> None:
    log = WorkerLog(tmp_path / "logs", model)
    write(log, b"x")
    assert [path.name for path in (tmp_path / "logs").iterdir()] == [file]


def test_a_long_name_is_a_usable_name(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path, "ü" * 500)
    write(log, b"x")
    assert log.tail() == "x"


def test_the_files_are_private(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path / "logs", "alpha")
    write(log, b"x")
    assert log.path.stat().st_mode & 0o777 == 0o600
    assert log.path.parent.stat().st_mode & 0o777 == 0o700


def test_the_run_before_is_kept_and_the_one_before_that_is_not(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path, "alpha")
    for text in (b"first", b"second", b"third"):
        write(log, text)
    assert {path.name: path.read_text() for path in tmp_path.glob("alpha.*")} == {
        "alpha.log": "third",
        "alpha.log.1": "second",
    }


@pytest.mark.parametrize(
    ("data", "tail"),
    [
        (b"", ""),
        (b"one\n\n  \ntwo\n", "one\ntwo"),
        (b"1\n2\n3\n4\n5\n6\n7", "3\n4\n5\n6\n7"),
        (b"\x1b[31mred\x1b[0m\x07 \xff", "[31mred[0m �"),
        (b"a" * 10_000, "a" * 4096),
    ],
)
def test_the_tail_is_short_and_printable(tmp_path: Path, data: bytes, tail: str) -> None:
    log = WorkerLog(tmp_path, "alpha")
    write(log, data)
    assert log.tail() == tail


def test_no_run_has_no_tail(tmp_path: Path) -> None:
    assert WorkerLog(tmp_path, "alpha").tail() == ""
