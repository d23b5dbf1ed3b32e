"""A bomb costs its own request a 400, or is defused by llguidance's limits; nobody else notices."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from llmserve.errors import InvalidRequest
from llmserve.llama.constraint import Constraint, ConstraintFactory
from llmserve.llama.grammar import Grammar
from llmserve.llama.preparation import Preparer, PreparerLimits
from tests.llama.grammar_bombs import bombs
from tests.llama.vocabularies import END, SIZE, TOKENS, allowed, setup, walk, work

BOMBS = list(bombs())
HARMLESS = Grammar("regex", "ok", "structured_outputs.regex")
STEPS = 60


@pytest.fixture(scope="module")
def preparer() -> Iterator[Preparer]:
    preparer = Preparer("grammars", PreparerLimits(cpu_seconds=0.3))
    preparer.set_up(setup)
    yield preparer
    preparer.close()


@pytest.fixture(scope="module")
def constraints(preparer: Preparer) -> ConstraintFactory:
    return ConstraintFactory(preparer.ask, lambda: work().tokenizer, SIZE)


def follow(constraint: Constraint) -> None:
    for _ in range(STEPS):
        tokens = [token for token in allowed(constraint) if token != END]
        if not tokens or constraint.complete:
            return
        constraint.accept(max(tokens, key=lambda token: len(TOKENS[token])))


def test_there_are_64_bombs() -> None:
    assert len(set(BOMBS)) == 64


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.text[:30])
def test_j1_j2_j3_a_bomb_is_refused_or_defused(constraints: ConstraintFactory, bomb: Grammar) -> None:
    try:
        constraint = constraints.compile(bomb)
    except InvalidRequest as refusal:
        assert refusal.param == bomb.param
        assert len(refusal.message) < 500
    else:
        follow(constraint)
        assert constraint.failure is None or constraint.failure.param == bomb.param
    assert walk(constraints.compile(HARMLESS), 0) == b"ok"


def test_j5_others_are_served_among_bombs(preparer: Preparer) -> None:
    lethal = "start: " + "(" * 5000 + '"a"' + ")" * 5000
    tokenizer = work().tokenizer
    outcomes: dict[int, str] = {}

    def compile_one(number: int) -> None:
        constraints = ConstraintFactory(preparer.ask, lambda: tokenizer, SIZE)
        text = f"// {number}\n{lethal}" if number % 3 else f'// {number}\nstart: "ok"'
        try:
            constraints.compile(Grammar("grammar", text, "structured_outputs.grammar"))
            outcomes[number] = "served"
        except InvalidRequest:
            outcomes[number] = "refused"

    threads = [threading.Thread(target=compile_one, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {number: "refused" if number % 3 else "served" for number in range(24)}
