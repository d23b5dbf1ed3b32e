"""A rule for the answer waits for the thoughts to end, and a budget ends them."""

from __future__ import annotations

import numpy as np
import pytest

from llmserve.errors import InvalidRequest
from llmserve.llama.output.reasoning import THINK, ThinkingBudget
from llmserve.llama.thought_gate import Speller, ThoughtGate
from tests.llama.fixed_rule import FixedRule

WORDS = ("<think>", "</think>", "hm", "yes", "no", "\n", "\n\n")
OPEN, CLOSE, HM, YES, NO, LINE, LINES = range(len(WORDS))


def tokenize(text: str) -> list[int]:
    tokens = []
    while text:
        word = max((word for word in WORDS if text.startswith(word)), key=len)
        tokens.append(WORDS.index(word))
        text = text[len(word) :]
    return tokens


SPELLER = Speller(WORDS.__getitem__, tokenize, (OPEN,))


def gate(rule: FixedRule | None, limit: int | None, *, inside: bool) -> ThoughtGate:
    return ThoughtGate(ThinkingBudget(THINK, limit, inside=inside), rule, SPELLER)


def allowed(tokens: ThoughtGate) -> set[int]:
    """What may come next, by both ways to ask."""
    logits = np.zeros(len(WORDS), dtype=np.float32)
    tokens.apply(logits)
    found = {token for token in range(len(WORDS)) if np.isfinite(logits[token])}
    assert found == {token for token in range(len(WORDS)) if tokens.allows(token)}
    return found


ALL = set(range(len(WORDS)))


def test_thoughts_are_free_and_the_answer_is_not() -> None:
    tokens = gate(FixedRule(YES), None, inside=True)
    for token in (HM, NO, CLOSE):
        assert allowed(tokens) == ALL
        assert tokens.accept(token)
        assert not tokens.complete
    assert allowed(tokens) == {YES}
    assert tokens.accept(YES)
    assert tokens.complete


def test_a_model_may_begin_to_think_with_its_first_token() -> None:
    tokens = gate(FixedRule(YES), None, inside=False)
    assert allowed(tokens) == {OPEN, YES}
    assert tokens.accept(OPEN)
    assert allowed(tokens) == ALL
    assert tokens.accept(CLOSE)
    assert allowed(tokens) == {YES}


def test_a_model_that_answers_at_once_is_held_to_the_rule() -> None:
    tokens = gate(FixedRule(YES, NO), None, inside=False)
    assert tokens.accept(YES)
    assert allowed(tokens) == {NO}
    assert not tokens.accept(OPEN)


@pytest.mark.parametrize("inside", [True, False])
def test_a_used_up_budget_forces_the_end(inside: bool) -> None:
    tokens = gate(FixedRule(YES), 2, inside=inside)
    for token in (HM, HM) if inside else (OPEN, HM, HM):
        assert tokens.accept(token)
    for forced in (LINE, CLOSE, LINES):
        assert allowed(tokens) == {forced}
        assert not tokens.complete
        assert tokens.accept(forced)
    assert allowed(tokens) == {YES}


def test_forced_tokens_are_told_before_they_are_written() -> None:
    tokens = gate(None, 0, inside=True)
    assert tokens.forced() == tokens.forced() == [LINE, CLOSE, LINES]
    assert tokens.accept(LINE)
    assert tokens.forced() == [CLOSE, LINES]
    assert tokens.accept(CLOSE)
    assert tokens.accept(LINES)
    assert tokens.forced() == []
    assert allowed(tokens) == ALL


def test_another_token_than_the_forced_one_does_not_fit() -> None:
    assert not gate(None, 0, inside=True).accept(HM)


def test_without_a_rule_the_answer_never_ends_by_itself() -> None:
    tokens = gate(None, 9, inside=False)
    assert tokens.accept(YES)
    assert not tokens.complete
    assert allowed(tokens) == ALL


def test_the_rules_failure_is_the_gates() -> None:
    rule = FixedRule(YES)
    tokens = gate(rule, None, inside=True)
    assert tokens.failure is None
    rule.failure = InvalidRequest("too much")
    assert tokens.failure is rule.failure
