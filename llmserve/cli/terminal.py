"""How the command line writes: data to stdout, talk to stderr, and nothing that could command the terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import click

from llmserve.planning.formatting import human_bytes

# C0 and C1 controls except tab and newline: text of models and files must not move the cursor or retitle the window.
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)}


def printable(text: str) -> str:
    """`text` without control characters other than tab and newline."""
    return text.translate(_CONTROLS)


def talk(message: str = "") -> None:
    """One line for the person: on stderr, so that stdout holds data alone."""
    click.echo(printable(message), err=True)


def warn(message: str) -> None:
    _labelled("warning", "yellow", message)


def show_error(message: str, hint: str | None = None) -> None:
    """`error: message`, and after an empty line `hint: ...`."""
    _labelled("error", "red", message)
    if hint:
        talk()
        _labelled("hint", "cyan", hint)


def _labelled(label: str, color: str, message: str) -> None:
    # click removes the colour where stderr is no terminal; NO_COLOR (https://no-color.org) removes it everywhere.
    plain = False if os.environ.get("NO_COLOR") else None
    click.echo(f"{click.style(label, fg=color, bold=True)}: {printable(message)}", err=True, color=plain)


def print_answer(text: str) -> None:
    """A piece of an answer: to stdout at once; as it is for a program, made harmless for a terminal."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def print_json(value: object) -> None:
    """A value of `llmserve.types` (or a tuple of them), or plain data, as indented JSON on stdout."""
    from llmserve.json_text import to_json

    click.echo(to_json(value, indent=2))


def print_table(rows: Iterable[Sequence[str]], header: Sequence[str] | None = None) -> None:
    """Rows in aligned columns. Nothing is cut to the terminal's width: a program may read them."""
    lines = [[printable(cell).replace("\n", " ") for cell in row] for row in ([header] if header else []) + list(rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    click.echo("\n".join(shown))


def bytes_text(size: int | None) -> str:
    """A size for a person: `94 MiB`; `unknown` for None."""
    return "unknown" if size is None else human_bytes(size)


def age_text(since: float) -> str:
    """How long ago the time `since` (seconds of the epoch) was: `3 hours ago`."""
    seconds = max(0.0, time.time() - since)
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if count := int(seconds // length):
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


@contextmanager
def status(message: str) -> Iterator[None]:
    """Show `message` on the terminal's last line while the block runs; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    import shutil

    # Spaces erase it, so that it works on a terminal without escape codes; cut, so that it stays one line.
    shown = printable(message)[: shutil.get_terminal_size().columns - 1]
    click.echo(shown, nl=False, err=True)
    try:
        yield
    finally:
        click.echo(f"\r{' ' * len(shown)}\r", nl=False, err=True)
