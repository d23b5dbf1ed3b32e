"""Kernels round differently for other numbers of rows, so one text may leave the other where two tokens tie."""

from __future__ import annotations

from typing import Any

# Log probabilities closer than this are a tie that rounding decides.
NEAR_TIE = 0.01


def assert_same_but_for_ties(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same tokens up to the first place where the two likeliest tie.

    `one` and `other` are the `logprobs` of text completions that were asked for two alternatives.
    """
    assert len(one["tokens"]) == len(other["tokens"])
    assert lead_at_parting(one, other) < NEAR_TIE


def lead_at_parting(one: dict[str, Any], other: dict[str, Any]) -> float:
    """By how much the likeliest token leads where two texts part, in the one where it leads by more; 0: they do not."""
    pairs = enumerate(zip(one["tokens"], other["tokens"], strict=True))
    parting = next((place for place, (first, second) in pairs if first != second), None)
    if parting is None:
        return 0.0
    leads = (sorted(text["top_logprobs"][parting].values(), reverse=True)[:2] for text in (one, other))
    return max(best - second for best, second in leads)
