"""Which tokens the shown text is made of, where text is held back and characters are split between tokens."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from llmserve.llama.logprobs import TokenScore
from llmserve.openai.logprobs import TextOffsets


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of shown text and the score of the token that begins there; None where a token before it goes on.

    The text is empty where the token shows nothing of its own, such as the first bytes of a character.
    """

    text: str
    score: TokenScore | None


class ScoredText:
    """Gives each token's score out with the first of its text that is shown, and never before."""

    def __init__(self) -> None:
        self._offsets = TextOffsets()
        self._waiting: deque[tuple[int, TokenScore]] = deque()
        self._shown = 0

    def wrote(self, piece: bytes, score: TokenScore) -> None:
        """A token with these bytes was written."""
        self._waiting.append((self._offsets.place(piece), score))

    def show(self, text: str, *, ended: bool = False) -> tuple[Part, ...]:
        """The parts of `text`, which is shown now; `ended`: nothing is held back behind it."""
        begin, end = self._shown, self._shown + len(text)
        self._shown = end
        begun: list[tuple[int, TokenScore]] = []
        while self._waiting and (ended or self._waiting[0][0] < end):
            begun.append(self._waiting.popleft())
        starts = [min(start, end) - begin for start, _ in begun] + [len(text)]
        parts = [Part(text[: starts[0]], None)] if starts[0] > 0 else []
        for (_, score), start, next_start in zip(begun, starts[:-1], starts[1:], strict=True):
            parts.append(Part(text[start:next_start], score))
        return tuple(parts)
