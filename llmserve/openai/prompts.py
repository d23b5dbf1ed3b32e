"""Text or token ids, one or many: the forms in which a request may state what a model reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmserve.openai.schema import refuse

TOKEN_ID_LIMIT = 2**31

Prompts = tuple[str, ...] | tuple[tuple[int, ...], ...]

_FORMS = "must be a string, a list of strings, a list of token ids or a list of those"


def prompts(most: int) -> Callable[[object], Prompts]:
    """A validator of up to `most` prompts, all text or all token ids, none of them empty."""

    def validate(prompt: object) -> Prompts:
        if not isinstance(prompt, str | list | tuple):
            refuse(_FORMS)
        if not prompt:
            refuse("must not be empty")
        several = [prompt] if isinstance(prompt, str) or type(prompt[0]) is int else prompt
        if len(several) > most:
            refuse(f"must hold at most {most} prompts")
        kinds = set(map(type, several))
        if kinds not in ({str}, {list}, {tuple}):
            refuse(_FORMS)
        if not all(several):
            refuse("must not hold an empty prompt")
        return tuple(several) if kinds == {str} else tuple(map(token_ids, several))

    return validate


def token_ids(tokens: Any) -> tuple[int, ...]:
    """`tokens` as token ids. The upper bound is the vocabulary, which only the model's worker knows."""
    if not isinstance(tokens, list | tuple):
        refuse("must be a list of token ids")
    # Looped over in C: a prompt may be a hundred thousand tokens long.
    if tokens and (set(map(type, tokens)) != {int} or min(tokens) < 0 or max(tokens) >= TOKEN_ID_LIMIT):
        refuse(f"must have integers from 0 to {TOKEN_ID_LIMIT - 1} as token ids")
    return tuple(tokens)
