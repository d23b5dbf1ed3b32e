"""What a model's text turns out to be, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thought before it answered."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """The tool call `index` of this answer begins; its arguments follow. `id` is unique."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of the arguments of the tool call `index`: JSON text, whatever form the model wrote."""

    index: int
    text: str


OutputEvent = Content | Reasoning | ToolCallStart | ToolCallArguments


class Malformed(Exception):
    """What began like a tool call does not go on like one. Stays inside this package: the text becomes content."""
