"""A small vocabulary for grammars: every byte, some longer tokens of JSON, and an end."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from llmserve.llama.constraint import Constraint, ConstraintFactory
from llmserve.llama.grammar_work import GrammarWork, vocabulary_setup

_LONGER = (
    *(b'{"', b'":', b'": ', b'",', b'", "', b'"}', b"}}", b"}]", b"[]", b"{}", b"[{", b"],", b"},", b'["', b'"]'),
    *(b"true", b"false", b"null", b"12", b"20", b"00", b"99", b"0.", b"-1", b"e", b"the", b"and", b"ing", b" a"),
    *("é".encode(), "日本".encode(), "😀".encode()),
)
END = 256
TOKENS: tuple[bytes, ...] = (*(bytes([byte]) for byte in range(256)), b"<|end|>", *_LONGER)
SIZE = len(TOKENS)


def setup() -> dict[str, Any]:
    """What a preparer for grammars is set up with."""
    return vocabulary_setup(TOKENS, [END], [END])


def work() -> GrammarWork:
    return GrammarWork.from_setup(setup())


def factory(grammar_work: GrammarWork | None = None) -> ConstraintFactory:
    """A factory whose preparer is a function of this process."""
    preparing = grammar_work or work()
    return ConstraintFactory(lambda request: preparing(dict(request)), lambda: preparing.tokenizer, SIZE)


def allowed(constraint: Constraint) -> list[int]:
    logits = np.zeros(SIZE, dtype=np.float32)
    constraint.apply(logits)
    return [int(token) for token in np.flatnonzero(np.isfinite(logits))]


def walk(constraint: Constraint, seed: int, *, most_tokens: int = 1500) -> bytes | None:
    """What random allowed tokens spell, ended where that is possible half of the time; None if it takes too long.

    Brackets and quotes are preferred, so that walks come to an end.
    """
    choose = random.Random(seed)
    text = b""
    for step in range(most_tokens):
        tokens = allowed(constraint)
        if constraint.failure is not None:
            raise constraint.failure
        if END in tokens and (len(tokens) == 1 or choose.random() < 0.5):
            return text
        others = [token for token in tokens if token != END]
        closing = [token for token in others if TOKENS[token][:1] in b'"}],:' or TOKENS[token] in _LONGER]
        hurry = min(0.9, 0.3 + step / 100)
        token = choose.choice(closing if closing and choose.random() < hurry else others)
        if not constraint.accept(token):
            raise AssertionError(f"an allowed token was not accepted: {TOKENS[token]!r} after {text!r}")
        text += TOKENS[token]
        if constraint.complete:
            return text
    return None
