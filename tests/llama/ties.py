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
    pairs = enumerate(zip(one["tokens"], other["tokens"], strict=True))
    parting = next((place for place, (first, second) in pairs if first != second), None)
    if parting is not None:
        best, second = sorted(one["top_logprobs"][parting].values(), reverse=True)
        assert best - second < NEAR_TIE
