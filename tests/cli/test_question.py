"""Where a question comes from."""

from __future__ import annotations

import io
import os
import pty
import sys
from collections.abc import Iterator

import pytest

from llmserve.cli import question
from llmserve.cli.question import read_question
from llmserve.errors import InvalidRequest
from tests.cli.test_terminal import Terminal


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard input is a terminal at which nobody types."""
    master, slave = pty.openpty()
    with os.fdopen(slave) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield
    os.close(master)


def test_a_person_at_both_ends_wants_a_chat(keyboard: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert read_question(()) is None


def test_an_argument_needs_no_input(keyboard: None) -> None:
    assert read_question(("Why", "blue?")) == "Why blue?"


def test_a_chat_needs_a_terminal_to_write_to(keyboard: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(InvalidRequest, match="there is no prompt"):
        read_question(())


def test_no_standard_input_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert read_question(("hi",)) == "hi"
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        read_question(())


def test_a_silent_pipe_is_waited_for_and_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()

    def write_once_told(message: str) -> None:
        sys.stderr.write(message)
        os.write(writing, b"late")
        os.close(writing)

    monkeypatch.setattr(question, "_SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(question, "talk", write_once_told)
    with os.fdopen(reading) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert read_question(("hi",)) == "late\n\nhi"
    assert "standard input" in capsys.readouterr().err
