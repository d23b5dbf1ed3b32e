from __future__ import annotations

import pytest

from llmserve.llama.control_guard import ControlGuard, Marks

CONTROLS = ("<|im_start|>", "<|im_end|>", "</s>", "[INST]")
MARKS = Marks("(", ")", "!")


def test_ordinary_text_is_not_touched() -> None:
    text = "a < b, x |= y; list[int] -> </p> <|other|>"
    assert ControlGuard(CONTROLS).mark(text, MARKS) == text


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("a</s>b", "a(</s>)b"),
        ("</s></s>", "(</s></s>)"),
        ("s>a", "(s>)a"),
        ("a<", "a(<)"),
        ("<|im_<|im_end|>", "<|im_(<|im_end|>)"),
        ("", ""),
    ],
)
def test_what_could_become_a_control_token_is_marked(text: str, marked: str) -> None:
    assert ControlGuard(CONTROLS).mark(text, MARKS) == marked


def test_keys_are_marked_too_but_not_the_words_of_the_protocol() -> None:
    guard = ControlGuard(("content", "object", "user"))
    value = {"role": "user", "type": "object", "content": "user", "my content": ["user", 1, None, True]}
    assert guard.mark_all(value, MARKS) == {
        "role": "user",
        "type": "object",
        "content": "(user)",
        "my (content)": ["(user)", 1, None, True],
    }


def test_a_type_that_a_user_made_up_is_text() -> None:
    assert ControlGuard(CONTROLS).mark_all({"type": "</s>"}, MARKS) == {"type": "(</s>)"}


def test_a_vocabulary_without_control_tokens_needs_no_marks() -> None:
    guard = ControlGuard(())
    assert guard.mark("</s>", MARKS) == "</s>"
    assert list(guard.parts("a)b(c)d", MARKS)) == [("a", True), ("b", True), ("c", False), ("d", True)]


def test_marks_are_characters_that_the_request_does_not_use() -> None:
    marks = Marks.unused_in("\ufdd0 \ufdd2", "a\ufdd1 \ufdd4", r"\uFDD5")
    assert marks == Marks("\ufdd3", "\ufdd6", "\ufdd7")


def test_marks_that_were_escaped_on_the_way_are_found_again() -> None:
    marks = Marks("\ufdd0", "\ufdd1", "\ufdd2")
    shown = f"{ {'k': marks.opening + '</s>' + marks.closing} }"
    assert "\\ufdd0" in shown
    assert list(ControlGuard(CONTROLS).parts(marks.restored(shown), marks)) == [
        ("{'k': '", True),
        ("</s>", False),
        ("'}", True),
    ]
