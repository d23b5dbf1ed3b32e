"""The chat's input line, driven through a pipe of key presses."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from llmserve.cli.editor import is_open, line_editor, unquoted

Type = Callable[[str], Callable[[], str]]
ALT_ENTER = "\x1b\r"
CTRL_C, CTRL_D = "\x03", "\x04"
UP = "\x1b[A"


@pytest.fixture
def type_keys(tmp_path: Path) -> Iterator[Type]:
    """`type_keys(keys)` presses the keys and returns a reader of messages; the history is `tmp_path/home/history`."""
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):

        def press(keys: str) -> Callable[[], str]:
            keyboard.send_text(keys)
            return line_editor(tmp_path / "home" / "history")

        yield press


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("hello\r", "hello"),
        (f"one{ALT_ENTER}two\r", "one\ntwo"),
        ('"""one\rtwo\r\rthree"""\r', "one\ntwo\n\nthree"),
        ('"""\rone\r"""\r', "one"),
        ('"""one"""\r', "one"),
        ('say """x""" loud\r', 'say """x""" loud'),
        ("  spaced  \r", "spaced"),
        ("/set temperature 1\r", "/set temperature 1"),
    ],
)
def test_messages(type_keys: Type, keys: str, message: str) -> None:
    assert type_keys(keys)() == message


def test_ctrl_c_and_ctrl_d(type_keys: Type) -> None:
    read = type_keys(f"half{CTRL_C}{CTRL_D}")
    with pytest.raises(KeyboardInterrupt):
        read()
    with pytest.raises(EOFError):
        read()


def test_messages_are_remembered_for_the_next_time(type_keys: Type) -> None:
    type_keys("remember me\r")()
    assert type_keys(f"{UP}\r")() == "remember me"


@pytest.mark.parametrize("mode", [None, 0o644])
def test_only_the_user_may_read_the_history(type_keys: Type, tmp_path: Path, mode: int | None) -> None:
    history = tmp_path / "home" / "history"
    if mode is not None:
        history.parent.mkdir()
        history.touch(mode)
    type_keys("secret\r")()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "secret" in history.read_text()


def test_a_home_that_cannot_be_written_to_is_survived(type_keys: Type, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, not a folder")
    assert type_keys("hello\r")() == "hello"


@pytest.mark.parametrize(
    ("text", "expected"),
    [('"""', True), ('""""', True), ('"""a', True), ('"""a"""', False), ('""""""', False), ("a", False), ("", False)],
)
def test_open_quotations(text: str, expected: bool) -> None:
    assert is_open(text) is expected


@pytest.mark.parametrize(
    ("text", "message"), [('"""\n  a\n"""', "  a"), ('""""""', ""), ('"""a', '"""a'), (' "a" ', '"a"')]
)
def test_quotes_are_taken_off(text: str, message: str) -> None:
    assert unquoted(text) == message
