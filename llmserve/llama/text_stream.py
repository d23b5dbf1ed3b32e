"""From token bytes to text that may be shown: whole characters only, and never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Incremental UTF-8 decoding and stop-string matching for one sequence.

    Text that could still become a stop string is held back, so that a stop string is never shown in part. Bytes that
    are not UTF-8 become U+FFFD once it is certain.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self.stopped_by is not None

    def feed(self, piece: bytes) -> str:
        """The text that `piece` makes certain, possibly empty. Sets `stopped_by` when a stop string is complete."""
        text = self._decoder.decode(piece)
        return self._release(text) if self._stops else text

    def flush(self) -> str:
        """What is still held back, when the sequence ends for another reason than a stop string."""
        text = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        text = self._held + text
        ends = [(position, stop) for stop in self._stops if (position := text.find(stop)) >= 0]
        if ends:
            position, self.stopped_by = min(ends)
            self._held = ""
            return text[:position]
        keep = max(_open_end(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _open_end(text: str, stop: str) -> int:
    """Length of the longest proper prefix of `stop` that `text` ends with."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
