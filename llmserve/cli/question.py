"""What a person asks: by arguments, through a pipe, or both."""

from __future__ import annotations

import select
import sys
from collections.abc import Sequence

from llmserve.cli.terminal import talk
from llmserve.errors import InvalidRequest

# A pipe that says nothing for this long may be one that nobody means to write to.
_SILENCE_SECONDS = 1.0


def read_question(arguments: Sequence[str]) -> str | None:
    """The text of standard input and the arguments, in this order, with an empty line between.

    None where a person sits at both ends and said nothing: that is a chat. Raises `InvalidRequest` for an empty
    question and for one that is not UTF-8 text.
    """
    at_keyboard = sys.stdin is not None and sys.stdin.isatty()
    if at_keyboard and not arguments:
        if sys.stdout.isatty():
            return None
        raise InvalidRequest("there is no prompt", hint="give it as an argument or through a pipe")
    argument = " ".join(arguments)
    try:
        piped = "" if at_keyboard or sys.stdin is None else _read_input()
        argument.encode()
    except UnicodeError as error:
        raise InvalidRequest("the prompt is not UTF-8 text") from error
    question = "\n\n".join(part for part in (piped.strip("\n"), argument) if part.strip())
    if not question:
        raise InvalidRequest("the prompt is empty", hint="give it as an argument or through a pipe")
    return question


def _read_input() -> str:
    ready, _, _ = select.select([sys.stdin], [], [], _SILENCE_SECONDS)
    if not ready:
        talk("waiting for the end of standard input (`< /dev/null` says that there is none)")
    return sys.stdin.buffer.read().decode()
