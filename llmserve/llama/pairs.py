"""A query and a document as the one text that a ranking model reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmserve.llama.control_guard import ControlGuard, Marks

_PLACES = re.compile(r"(\{query\}|\{document\})")


class Tokenizer(Protocol):
    def tokenize(self, text: str, *, special: bool, whole: bool = False) -> list[int]: ...
    def control_texts(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class PairMarks:
    """The tokens before the query, between query and document, and after the document."""

    before: Sequence[int]
    between: Sequence[int]
    after: Sequence[int]


class PairWriter:
    """Writes pairs by the model's own `template`, or else with `marks` around plain query and document.

    Nothing in a query or a document becomes a control token. Safe to use from one thread at a time.
    """

    def __init__(self, tokenizer: Tokenizer, marks: PairMarks, template: str | None) -> None:
        self._tokenizer = tokenizer
        self._marks = marks
        self._template = _PLACES.split(template) if template is not None else None
        self._guard = ControlGuard(tokenizer.control_texts())

    def pairs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """The tokens of `query` with each of `documents`."""
        if self._template is not None:
            return [self._by_template(self._template, {"{query}": query, "{document}": text}) for text in documents]
        marks = self._marks
        asked = self._tokenizer.tokenize(query, special=False)
        answers = (self._tokenizer.tokenize(document, special=False) for document in documents)
        return [[*marks.before, *asked, *marks.between, *answer, *marks.after] for answer in answers]

    def _by_template(self, template: Sequence[str], values: dict[str, str]) -> list[int]:
        marks = Marks.unused_in(*values.values())
        text = "".join(self._guard.mark(values[piece], marks) if piece in values else piece for piece in template)
        tokens: list[int] = []
        for part, special in self._guard.parts(text, marks):
            tokens += self._tokenizer.tokenize(part, special=special)
        return tokens
