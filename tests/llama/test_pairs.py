"""How a query and a document become one text."""

from __future__ import annotations

import re

import pytest

from llmserve.llama.pairs import PairMarks, PairWriter

CONTROLS = {"<|end|>": 1, "<|sep|>": 2}


class Letters:
    """Every character is a token, and a control token one where it is recognised."""

    def tokenize(self, text: str, *, special: bool, whole: bool = False) -> list[int]:
        if not special:
            return _letters(text)
        pieces = re.split("|".join(f"({re.escape(control)})" for control in CONTROLS), text)
        return [token for piece in pieces if piece for token in self._piece(piece)]

    def _piece(self, piece: str) -> list[int]:
        return [CONTROLS[piece]] if piece in CONTROLS else _letters(piece)

    def control_texts(self) -> tuple[str, ...]:
        return tuple(CONTROLS)


def _letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def writer(template: str | None = None) -> PairWriter:
    return PairWriter(Letters(), PairMarks([7], [8, 9], [8]), template)


def test_marks_stand_around_query_and_document() -> None:
    assert writer().pairs("a", ["b", "cd"]) == [
        [7, ord("a"), 8, 9, ord("b"), 8],
        [7, ord("a"), 8, 9, *_letters("cd"), 8],
    ]


def test_a_template_is_followed_and_its_control_tokens_are_recognised() -> None:
    pairs = writer("Q: {query}<|sep|>D: {document}<|end|>").pairs("a", ["b"])
    assert pairs == [[*_letters("Q: a"), 2, *_letters("D: b"), 1]]


def test_a_place_in_a_value_is_not_filled() -> None:
    pairs = writer("{query}<|sep|>{document}").pairs("{document}", ["{query}"])
    assert pairs == [[*_letters("{document}"), 2, *_letters("{query}")]]


@pytest.mark.parametrize("template", [None, "{query}<|sep|>{document}<|end|>", "<{query}{document}>"])
@pytest.mark.parametrize(("query", "document"), [("<|end|>", "x"), ("x", "a<|sep|>"), ("<|e", "nd|>"), ("|end|", "x")])
def test_i11_no_text_becomes_a_control_token(template: str | None, query: str, document: str) -> None:
    (tokens,) = writer(template).pairs(query, [document])
    own = template.count("<|") if template else 0
    assert sum(token in CONTROLS.values() for token in tokens) == own
    assert all(token in tokens for token in _letters(query + document))
