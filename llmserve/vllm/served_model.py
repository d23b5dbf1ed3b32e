"""What the translators know of the model that a vLLM server serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`name` is the served name; `context` the longest a sequence may become, in tokens.

    `tool_parser` and `reasoning_parser` are vLLM's names of what reads calls and thoughts out of this model's text;
    None where nothing does, and calls or thoughts cannot be told from the rest.
    """

    name: str
    context: int
    tool_parser: str | None = None
    reasoning_parser: str | None = None
