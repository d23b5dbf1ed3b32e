"""`logs`: the end of what workers wrote, and what they write from then on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from llmserve.cli.log_file import LogFile
from llmserve.fleet.worker_log import WorkerLog
from tests.cli.conftest import Invoke
from tests.cli.fakes import FakeStore
from tests.support import until

NAME = "tiny:1b"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMSERVE_HOME", str(tmp_path))
    return tmp_path


class Run:
    """One run of a worker, which writes into its log as it lives."""

    def __init__(self, home: Path, model: str = NAME) -> None:
        self._descriptor = WorkerLog(home / "logs", model).open()

    def write(self, text: str) -> Run:
        os.write(self._descriptor, text.encode())
        return self

    def end(self) -> None:
        os.close(self._descriptor)


def ran(home: Path, text: str, model: str = NAME) -> None:
    Run(home, model).write(text).end()


def numbered(first: int, last: int) -> str:
    return "".join(f"line {number}\n" for number in range(first, last + 1))


@pytest.fixture
def log(home: Path) -> Iterator[LogFile]:
    ran(home, "")
    path = WorkerLog(home / "logs", NAME).path
    file = LogFile(path, path.with_name(f"{path.name}.1"))
    yield file
    file.close()


class TestShown:
    def test_the_last_lines(self, invoke: Invoke, home: Path, store: FakeStore) -> None:
        ran(home, numbered(1, 500))
        assert invoke("logs", "tiny").out == numbered(401, 500)
        assert invoke("logs", NAME, "--lines", "2").out == numbered(499, 500)
        assert invoke("logs", NAME, "-n", "1000").out == numbered(1, 500)
        assert invoke("logs", NAME, "-n", "0").out == ""

    def test_those_of_the_run_before_go_first(self, invoke: Invoke, home: Path, store: FakeStore) -> None:
        ran(home, "never seen\n")
        ran(home, numbered(1, 3) + "it crashed")
        ran(home, "")
        assert invoke("logs", NAME, "-n", "2").out == "line 3\nit crashed"

    @pytest.mark.parametrize("bytes_before", [0, 1, 64 * 1024 - 7, 64 * 1024, 300_000])
    def test_lines_of_any_length(self, invoke: Invoke, home: Path, store: FakeStore, bytes_before: int) -> None:
        long = "x" * 70_000
        ran(home, "y" * bytes_before + f"\n{long}\nünï\rx\n")
        assert invoke("logs", NAME, "-n", "2").out == f"{long}\nünï\rx\n"

    def test_all_models_each_under_its_name(self, invoke: Invoke, home: Path, store: FakeStore) -> None:
        ran(home, "a\n")
        ran(home, "b\n", "hf:o/r:f.gguf")
        (home / "logs" / "install-vllm.log").write_text("not a model\n")
        assert invoke("logs").out == "==> hf:o/r:f.gguf <==\nb\n\n==> tiny:1b <==\na\n"

    def test_a_model_that_is_gone_has_its_log_still(self, invoke: Invoke, home: Path, store: FakeStore) -> None:
        ran(home, "a\n", "gone:1b")
        assert invoke("logs", "gone:1b").out == "a\n"

    def test_a_log_that_is_not_there(self, invoke: Invoke, home: Path, store: FakeStore) -> None:
        nothing = invoke("logs")
        assert (nothing.code, "no log of any model" in nothing.err) == (1, True)
        ran(home, "a\n", "other:1b")
        missing = invoke("logs", "tiny")
        assert (missing.code, missing.out) == (1, "")
        assert "no log of `tiny:1b`" in missing.err
        assert "other:1b" in missing.err

    def test_an_empty_log_is_told(self, invoke: Invoke, home: Path, store: FakeStore) -> None:
        ran(home, "")
        result = invoke("logs", "tiny")
        assert (result.code, result.out) == (0, "")
        assert "nothing is written" in result.err


class TestMore:
    def test_only_whole_lines(self, log: LogFile, home: Path) -> None:
        assert log.last(5) == ""
        path = WorkerLog(home / "logs", NAME).path
        with path.open("a") as file:
            for text, more in (("a", ""), ("b\nc", "ab\n"), ("", ""), ("\n", "c\n")):
                file.write(text)
                file.flush()
                assert log.more() == more

    def test_over_the_end_of_a_run(self, log: LogFile, home: Path) -> None:
        log.last(5)
        first = Run(home)
        assert log.more() == ""
        first.write("a\nunfinished")
        assert log.more() == "a\n"
        second = Run(home).write("b\n")
        first.write(" after all")
        assert log.more() == "unfinished after all\nb\n"
        assert log.more() == ""
        second.write("c\n")
        assert log.more() == "c\n"
        first.end()
        second.end()

    def test_what_was_written_last_of_all(self, log: LogFile, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run ends, and the next one begins, between the reading of the one and the look for the other."""
        log.last(1)
        first = Run(home)
        log.more()
        look = LogFile._next_run

        def meanwhile(file: LogFile) -> BinaryIO | None:
            first.write("last words\n")
            ran(home, "next\n")
            return look(file)

        monkeypatch.setattr(LogFile, "_next_run", meanwhile)
        assert log.more() == "last words\nnext\n"
        first.end()

    def test_a_line_that_was_shown_unfinished_is_ended(self, home: Path) -> None:
        ran(home, "cut off")
        path = WorkerLog(home / "logs", NAME).path
        file = LogFile(path, path.with_name("none"))
        assert file.last(1) == "cut off"
        ran(home, "b\n")
        assert file.more() == "\nb\n"
        file.close()

    def test_a_removed_log_is_waited_for(self, log: LogFile, home: Path) -> None:
        log.last(1)
        WorkerLog(home / "logs", NAME).path.unlink()
        assert log.more() == ""
        ran(home, "again\n")
        assert log.more() == "again\n"


def test_who_follows_sees_the_next_run_and_other_models(home: Path, tmp_path: Path) -> None:
    ran(home, numbered(1, 9))
    out = tmp_path / "out"
    argv = [sys.executable, "-P", "-m", "llmserve", "logs", "-f", "--lines", "1"]
    with out.open("wb") as file:
        following = subprocess.Popen(argv, stdout=file, stdin=subprocess.DEVNULL)
    try:
        until(lambda: out.read_text() == "==> tiny:1b <==\nline 9\n")
        ran(home, "next\n")
        until(lambda: out.read_text().endswith("line 9\nnext\n"))
        ran(home, "all\nof it\n", "other:1b")
        until(lambda: out.read_text().endswith("next\n\n==> other:1b <==\nall\nof it\n"))
    finally:
        following.send_signal(signal.SIGINT)
        assert following.wait(timeout=20) == 130
