"""Words and tables for the terminal."""

from __future__ import annotations

import io
import sys
import time

import pytest

from llmserve.cli.terminal import age_text, bytes_text, print_answer, print_table, printable, show_error, status


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "unknown"),
        (0, "0 B"),
        (98_362_432, "94 MiB"),
        (80 * 1024**3, "80.0 GiB"),
    ],
)
def test_bytes(size: int | None, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "just now"), (30, "just now"), (61, "1 minute ago"), (7300, "2 hours ago"), (864_000, "10 days ago")],
)
def test_age(monkeypatch: pytest.MonkeyPatch, seconds: float, text: str) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    assert age_text(1_000_000_000.0 - seconds) == text


def test_printable_keeps_text_and_drops_commands() -> None:
    assert printable("a\tb\n\x1b[31mäß漢🙂\x9b2J\r\x00\x7f") == "a\tb\n[31mäß漢🙂2J"


def test_an_answer_is_harmless_on_a_terminal_and_untouched_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in ((Terminal(), "a[2Jb"), (io.StringIO(), "a\x1b[2Jb")):
        monkeypatch.setattr(sys, "stdout", stream)
        print_answer("a\x1b[2Jb")
        assert stream.getvalue() == expected


def test_a_table_is_aligned_and_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    print_table([("a", "x" * 50), ("bbb", "two\nlines")], ("NAME", "TEXT"))
    assert capsys.readouterr().out == f"NAME  TEXT\na     {'x' * 50}\nbbb   two lines\n"


@pytest.mark.parametrize("no_color", [False, True])
def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", Terminal())
    show_error("it broke", "mend it")
    written = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("\x1b[" in written) is not no_color
    assert "it broke\n\n" in written


def test_status_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with status("loading a very long name"):
        shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert shown == "loading a v"
    assert sys.stderr.getvalue() == f"{shown}\r{' ' * len(shown)}\r"  # type: ignore[attr-defined]


def test_status_is_silent_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with status("loading"):
        pass
    assert capsys.readouterr() == ("", "")
