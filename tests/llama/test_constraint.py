from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

from llmserve.errors import InvalidRequest
from llmserve.llama.constraint import Constraint, ConstraintFactory
from llmserve.llama.grammar import Grammar
from llmserve.llama.preparation import GaveUp
from llmserve.openai.response_format import ResponseFormat
from llmserve.openai.structured_outputs import StructuredOutputs
from tests.llama.vocabularies import END, SIZE, TOKENS, allowed, factory, walk, work


@pytest.fixture(scope="module")
def constraints() -> ConstraintFactory:
    return factory()


def grammar(kind: Any, text: str) -> Grammar:
    return Grammar(kind, text, "structured_outputs." + kind)


def spelt(constraint: Any) -> set[bytes]:
    return {TOKENS[token] for token in allowed(constraint)}


def feed(constraint: Any, text: bytes) -> None:
    for byte in text:
        assert constraint.accept(byte)


GBNF = r"""
root ::= item+ end   # a comment
item ::= [a-c]{2} "\u00e9" | "\x31" | ("x" | "\"")
end ::= "." | "\n"
"""
LARK = """
start: WORD ("," WORD)*
WORD: /[a-z]{2,4}/
"""


@pytest.mark.parametrize(
    ("kind", "text", "fitting"),
    [
        ("regex", "[0-9]{3}-(ab|cd)", r"[0-9]{3}-(ab|cd)"),
        ("choice", '["yes", "no", "a \\"quoted\\" one", "line\\nbreak", "\\u65e5"]', None),
        ("grammar", GBNF, '([a-c]{2}é|1|x|")+[.\n]'),
        ("grammar", LARK, "[a-z]{2,4}(,[a-z]{2,4})*"),
        ("grammar", '?start: word\n!word: "yes" | "no"', "yes|no"),
    ],
)
def test_every_form_of_grammar_is_followed(
    constraints: ConstraintFactory, kind: str, text: str, fitting: str | None
) -> None:
    import re

    for seed in range(10):
        written = walk(constraints.compile(grammar(kind, text)), seed)
        assert written is not None
        if fitting is None:
            assert written.decode() in json.loads(text)
        else:
            assert re.fullmatch(fitting, written.decode(), re.DOTALL)


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        (r"\d", "07", "٧x"),
        (r"\w", "09_az", "é٧日-"),
        (r"\D", "x٧", "7"),
        (r"\W", "é٧-", "a7_"),
        (r"[\d-]", "7-", "٧"),
        (r"[-\d]", "7-", "٧"),
        (r"[^\d]", "x٧", "7"),
        (r"[\D7]", "x٧7", "8"),
        (r"[]\w]", "]a", "é"),
        (r"\[?\d\]?", "7", "٧"),
        (r"\\d", "", "7"),
    ],
)
def test_digits_and_letters_are_those_of_ascii(
    constraints: ConstraintFactory, pattern: str, fits: str, others: str
) -> None:
    """As in JSON schema, and as other engines read a regular expression."""

    def is_accepted(text: str) -> bool:
        constraint = constraints.compile(grammar("regex", pattern))
        return all(constraint.accept(byte) for byte in text.encode()) and constraint.accept(END)

    assert [is_accepted(text) for text in fits] == [True] * len(fits)
    assert [is_accepted(text) for text in others] == [False] * len(others)


def test_only_what_fits_is_allowed(constraints: ConstraintFactory) -> None:
    constraint = constraints.compile(grammar("regex", "a[bc]d?"))
    logits = np.arange(SIZE, dtype=np.float32)
    constraint.apply(logits)
    assert [int(token) for token in np.flatnonzero(np.isfinite(logits))] == [ord("a")]
    assert logits[ord("a")] == ord("a")
    assert constraint.allows(ord("a"))
    assert not constraint.allows(ord("b"))
    feed(constraint, b"a")
    assert spelt(constraint) == {b"b", b"c"}
    feed(constraint, b"c")
    assert spelt(constraint) == {b"d", b"<|end|>"}
    assert not constraint.complete
    feed(constraint, b"d")
    assert constraint.complete
    assert constraint.failure is None


def test_what_was_ruled_out_before_stays_ruled_out(constraints: ConstraintFactory) -> None:
    logits = np.zeros(SIZE, dtype=np.float32)
    logits[ord("b")] = -np.inf
    constraints.compile(grammar("regex", "[bc]")).apply(logits)
    assert list(np.flatnonzero(np.isfinite(logits))) == [ord("c")]


def test_an_end_is_accepted_where_the_text_is_whole(constraints: ConstraintFactory) -> None:
    constraint = constraints.compile(grammar("regex", "ab*"))
    assert not constraint.allows(END)
    feed(constraint, b"ab")
    assert constraint.allows(END)
    assert constraint.accept(END)
    assert constraint.complete


def test_forced_tokens_are_told_before_they_are_written(constraints: ConstraintFactory) -> None:
    constraint = constraints.compile(grammar("regex", "(one|two) and three[!?]"))
    assert constraint.forced() == []
    feed(constraint, b"o")
    forced = constraint.forced()
    assert forced == constraint.forced(), "nothing was accepted"
    text = b"".join(TOKENS[token] for token in forced)
    assert b"ne and three".startswith(text)
    assert len(text) > 5
    feed(constraint, b"ne and three")
    assert constraint.forced() == []
    assert spelt(constraint) == {b"!", b"?"}


def test_forks_go_their_own_ways(constraints: ConstraintFactory) -> None:
    first = constraints.compile(grammar("regex", "ab|ac|bd"))
    second = constraints.compile(grammar("regex", "ab|ac|bd"))
    feed(first, b"a")
    third = first.fork()
    feed(second, b"b")
    feed(third, b"c")
    assert (spelt(first), spelt(second), third.complete) == ({b"b", b"c"}, {b"d"}, True)


def test_a_token_that_does_not_fit_ends_its_sequence_alone(constraints: ConstraintFactory) -> None:
    first = constraints.compile(grammar("regex", "abc"))
    second = first.fork()
    assert not first.accept(ord("x"))
    assert isinstance(first.failure, InvalidRequest)
    assert first.failure.param == "structured_outputs.regex"
    assert allowed(first) == []
    assert (first.complete, first.allows(ord("a")), first.forced()) == (False, False, [])
    feed(second, b"abc")
    assert second.complete


def test_a_grammar_that_grows_too_large_while_it_is_followed_ends_its_sequence(
    constraints: ConstraintFactory,
) -> None:
    grows = grammar("regex", "(a{1,1000}){1,1000}")
    constraint, neighbour = constraints.compile(grows), constraints.compile(grammar("regex", "a{1,1000}"))
    for _ in range(900):
        if allowed(constraint):
            constraint.accept(ord("a"))
        feed(neighbour, b"a")
    assert isinstance(constraint.failure, InvalidRequest)
    assert "could not go on by its grammar" in constraint.failure.message
    assert constraint.failure.param == "structured_outputs.regex"
    assert (allowed(constraint), constraint.complete, constraint.accept(ord("a"))) == ([], False, False)
    assert neighbour.failure is None
    # Whoever comes next starts afresh.
    assert allowed(constraints.compile(grows)) == [ord("a")]


def test_following_a_grammar_has_a_budget_of_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    constraint = factory().compile(grammar("regex", "[ab]*"))
    feed(constraint, b"ab")
    monkeypatch.setattr("llmserve.llama.constraint.time.thread_time", lambda: float(next(clock)))
    assert allowed(constraint) == []
    assert "too much time" in str(constraint.failure)


def test_a_compiled_grammar_is_kept() -> None:
    asked: list[str] = []
    preparing = work()

    def ask(request: Any) -> dict[str, Any]:
        asked.append(request["text"])
        return preparing(request)

    constraints = ConstraintFactory(ask, lambda: preparing.tokenizer, SIZE)
    for text in ("a", "b", "a", "a"):
        constraints.compile(grammar("regex", text))
    assert asked == ["a", "b"]
    for number in range(40):
        constraints.compile(grammar("regex", f"x{number}"))
    constraints.compile(grammar("regex", "a"))
    assert asked.count("a") == 2


def test_threads_may_compile_at_once() -> None:
    constraints = factory()
    compiled: dict[int, Constraint] = {}

    def compile_one(number: int) -> None:
        compiled[number] = constraints.compile(grammar("regex", f"x{number % 4}"))

    threads = [threading.Thread(target=compile_one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: walk(constraint, 0) for number, constraint in compiled.items()} == {
        number: f"x{number % 4}".encode() for number in range(8)
    }


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("regex", "(a", "unclosed group"),
        ("regex", r"[!-\d]", "invalid range"),
        ("regex", "(?=a)b", "look-around"),
        ("regex", r"(a)\1", "backreferences"),
        ("grammar", "root ::= foo", "foo"),
        ("grammar", "start: missing", "missing"),
        ("grammar", "start: a\na: b\nb: a", "no text fits"),
        ("grammar", "root ::= " + "(" * 5000, "nested too deeply|recursion"),
    ],
)
def test_what_is_no_grammar_is_refused(constraints: ConstraintFactory, kind: str, text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        constraints.compile(grammar(kind, text))
    assert caught.value.param == "structured_outputs." + kind
    assert "\n" not in caught.value.message


def test_a_grammar_that_exceeds_the_limits_is_refused() -> None:
    def give_up(_: Any) -> dict[str, Any]:
        raise GaveUp("it takes longer than the 1 s of computing that a request may use")

    with pytest.raises(InvalidRequest, match="longer than the 1 s") as caught:
        ConstraintFactory(give_up, lambda: None, SIZE).compile(grammar("regex", "a"))
    assert caught.value.param == "structured_outputs.regex"


@pytest.mark.parametrize(
    ("response_format", "structured_outputs", "expected"),
    [
        (None, None, None),
        ({"type": "text"}, None, None),
        ({"type": "json_object"}, None, Grammar("json_schema", '{"type":"object"}', "response_format")),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}},
            None,
            Grammar("json_schema", '{"type":"integer"}', "response_format.json_schema.schema"),
        ),
        (None, {"json": {"const": "é"}}, Grammar("json_schema", '{"const":"é"}', "structured_outputs.json")),
        (None, {"regex": "a+"}, Grammar("regex", "a+", "structured_outputs.regex")),
        (None, {"choice": ["a", "b"]}, Grammar("choice", '["a", "b"]', "structured_outputs.choice")),
        (None, {"grammar": 'start: "a"'}, Grammar("grammar", 'start: "a"', "structured_outputs.grammar")),
    ],
)
def test_the_grammar_of_a_request(response_format: Any, structured_outputs: Any, expected: Grammar | None) -> None:
    form = ResponseFormat.model_validate(response_format) if response_format else None
    outputs = StructuredOutputs.model_validate(structured_outputs) if structured_outputs else None
    assert Grammar.of_request(form, outputs) == expected
