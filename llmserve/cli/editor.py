"""The chat's input line: history, several lines, and the keys people expect."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings

QUOTES = '"""'


def line_editor(history: Path) -> Callable[[], str]:
    """A function that reads one message; it raises `KeyboardInterrupt` for Ctrl-C and `EOFError` for Ctrl-D.

    Enter sends, Alt-Enter begins another line, and a message that opens with three quotes goes on until three more.
    Messages are remembered in `history`, which only the user may read.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    remembered: History
    try:
        history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(history, os.O_WRONLY | os.O_CREAT, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        remembered = FileHistory(str(history))
    except OSError:
        # A home that cannot be written to is no reason not to talk.
        remembered = InMemoryHistory()
    session: PromptSession[str] = PromptSession(
        ">>> ", multiline=True, prompt_continuation="... ", history=remembered, key_bindings=_keys()
    )
    return lambda: unquoted(session.prompt())


def is_open(text: str) -> bool:
    """Whether `text` began a quotation that has not ended yet."""
    stripped = text.strip()
    return stripped.startswith(QUOTES) and not (len(stripped) >= 2 * len(QUOTES) and stripped.endswith(QUOTES))


def unquoted(text: str) -> str:
    """The message in `text`: without the quotes around it, and without blank space at its ends."""
    stripped = text.strip()
    if stripped.startswith(QUOTES) and not is_open(stripped):
        return stripped[len(QUOTES) : -len(QUOTES)].strip("\n")
    return stripped


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def another_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
