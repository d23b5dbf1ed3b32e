"""What all readers of tool calls have in common."""

from __future__ import annotations

from typing import Protocol

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.source import Reading, Source


class CallReader(Protocol):
    """Reads the tool calls of one form.

    `triggers` are the texts that begin calls wherever they stand, `beginnings` those that may begin one where the
    answer itself begins, and nowhere else.
    """

    triggers: tuple[str, ...]
    beginnings: tuple[str, ...]

    def read(self, source: Source, calls: CallWriter) -> Reading[None]:
        """Read the calls that the text, at a trigger or beginning, goes on with.

        Raises `Malformed` at the place where it stops making sense; what was not committed becomes content.
        """
        ...
