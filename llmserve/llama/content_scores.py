"""Which of an answer's tokens its content is made of, where thoughts, calls and marks are written between."""

from __future__ import annotations

from collections.abc import Callable

from llmserve.llama.output.events import Content, OutputEvent
from llmserve.llama.scored_text import Part
from llmserve.openai.logprobs import TokenLogprob


class ContentScores:
    """`piece` gives a token's bytes."""

    def __init__(self, piece: Callable[[int], bytes]) -> None:
        self._piece = piece
        self._waiting: list[Part] = []
        self.logprobs: list[TokenLogprob] = []

    def wrote(self, part: Part) -> None:
        """The parser is given the text of `part` next."""
        self._waiting.append(part)

    def of(self, event: OutputEvent) -> list[TokenLogprob]:
        """The tokens that `event`, which the parser has made of the latest text, consists of; only content is scored.

        Those are the last ones written that are as long as it is: what comes before them was a mark.
        """
        waiting, self._waiting = self._waiting, []
        if not isinstance(event, Content):
            return []
        length, first = 0, len(waiting)
        while first and (length < len(event.text) or not waiting[first - 1].text):
            first -= 1
            length += len(waiting[first].text)
        named = [part.score.named(self._piece) for part in waiting[first:] if part.score is not None]
        self.logprobs += named
        return named
