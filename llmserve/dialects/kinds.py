"""Checks of what kind a part of a request is, and of the short form of a text; for `BeforeValidator`."""

from __future__ import annotations

from collections.abc import Callable, Collection

from llmserve.openai.schema import refuse

Check = Callable[[object], object]


def only(kinds: Collection[str], predicate: str) -> Check:
    """Refuses, with `predicate`, everything that is none of `kinds`."""

    def check(kind: object) -> object:
        if kind not in kinds:
            refuse(predicate, unsupported=True)
        return kind

    return check


def one_of(kinds: Collection[str], things: str) -> Check:
    """Refuses what is no string, and `things` of any other than these `kinds`."""
    known = only(kinds, f"is not supported: only {things} of the types {', '.join(kinds)} are")

    def check(kind: object) -> object:
        if not isinstance(kind, str):
            refuse("must be a string")
        return known(kind)

    return check


def as_text_parts(content: object) -> object:
    """A string as the list of one part of text that it is short for; anything else as it is."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
