"""What a template is told about thinking, and when thinking has to stop."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve.llama.output.reasoning import GEMMA, THINK, ReasoningControl, ThinkingBudget


@pytest.mark.parametrize(
    ("template", "effort", "enable_thinking", "arguments"),
    [
        ("{% if enable_thinking %}", None, None, {}),
        ("{% if enable_thinking %}", "none", None, {"enable_thinking": False}),
        ("{% if enable_thinking %}", "low", None, {"enable_thinking": True}),
        ("{% if enable_thinking %}", "high", False, {"enable_thinking": False}),
        ("{% if thinking %}", "medium", None, {"thinking": True}),
        ("{% if thinking %}", None, False, {"thinking": False}),
        ("{{ reasoning_effort }}", "low", None, {"reasoning_effort": "low"}),
        ("{{ reasoning_effort }}", "none", None, {"reasoning_effort": "low"}),
        ("{{ reasoning_effort }}", "max", None, {"reasoning_effort": "high"}),
        (
            "{{ reasoning_effort }}{{ enable_thinking }}",
            "high",
            None,
            {"reasoning_effort": "high", "enable_thinking": True},
        ),
        ("{{ messages }}", "high", True, {}),
        ("thinking is allowed {{ strip_thinking(messages) }}", "high", None, {}),
    ],
)
def test_template_arguments(
    template: str, effort: str | None, enable_thinking: bool | None, arguments: dict[str, Any]
) -> None:
    assert ReasoningControl.of(template).arguments(effort, enable_thinking) == arguments


@pytest.mark.parametrize(
    ("prompt_end", "inside", "over"),
    [
        ("<|im_start|>assistant\n", False, False),
        ("<|im_start|>assistant\n<think>\n", True, False),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False, True),
        ("<｜Assistant｜></think>", False, True),
    ],
)
def test_where_an_answer_begins(prompt_end: str, inside: bool, over: bool) -> None:
    assert (THINK.begins_inside(prompt_end), THINK.is_over(prompt_end)) == (inside, over)


def spend(budget: ThinkingBudget, *tokens: str) -> int:
    """How many of `tokens` were accepted before the budget was exhausted."""
    for number, token in enumerate(tokens):
        if budget.exhausted:
            return number
        budget.accept(token)
    return len(tokens)


class TestBudget:
    def test_a_limit_ends_the_thoughts(self) -> None:
        budget = ThinkingBudget(THINK, 3, inside=True)
        assert spend(budget, "a", "b", "c", "d") == 3
        assert budget.end() == "\n</think>\n\n"
        assert budget.done
        assert not budget.exhausted

    def test_nothing_at_all_may_be_thought(self) -> None:
        assert ThinkingBudget(THINK, 0, inside=True).exhausted
        late = ThinkingBudget(THINK, 0, inside=False)
        assert spend(late, "<", "think", ">\n", "Hm") == 3

    @pytest.mark.parametrize("tokens", [["<think>"], ["\n", "<think>"], ["<th", "ink>\n"]])
    def test_opening_marks_cost_nothing(self, tokens: list[str]) -> None:
        budget = ThinkingBudget(THINK, None, inside=False)
        spend(budget, *tokens)
        assert (budget.inside, budget.used) == (True, 0)
        spend(budget, "one", " two", "</", "think", ">", "answer")
        assert (budget.done, budget.used) == (True, 5)

    def test_an_answer_that_does_not_begin_with_thoughts_has_none(self) -> None:
        budget = ThinkingBudget(THINK, 1, inside=False)
        assert spend(budget, "<b>", "<think>", "x", "y") == 4
        assert (budget.done, budget.used) == (True, 0)

    def test_each_family_has_its_own_end(self) -> None:
        assert ThinkingBudget(GEMMA, 1, inside=True).end() == "\n<channel|>\n\n"
