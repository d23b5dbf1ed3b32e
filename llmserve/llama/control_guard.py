"""Keeps what users write from becoming control tokens, while a template mixes it with its own.

Every place in a user's text that is written like a control token, or could become one together with what the template
puts beside it, is wrapped in two marks before rendering: Unicode noncharacters that occur nowhere in the request.
After rendering, what lies between marks is tokenised as plain text and the rest with control tokens recognised. Text
without such places, nearly all text, is not touched, and templates that trim, split or compare content work as ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmserve.errors import InvalidRequest

# Noncharacters: valid in UTF-8, never assigned, free for a program's inner use (Unicode standard, section 23.7).
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_NONCHARACTER = re.compile("[\ufdd0-\ufdef]")
_ESCAPED = re.compile("u(fd[de][0-9a-f])")
# What templates ask for by name. As a key it is the protocol's word, not the user's.
_STRUCTURAL_KEYS = frozenset(
    {
        *("role", "content", "type", "text", "name", "id", "tool_calls", "tool_call_id", "function", "arguments"),
        *("reasoning_content", "reasoning", "thinking", "title", "parameters", "properties", "required", "items"),
        *("description", "enum", "default", "anyOf", "additionalProperties", "$defs", "$ref"),
    }
)
_TYPES = frozenset(
    {"function", "text", "object", "array", "string", "number", "integer", "boolean", "null"},
)


@dataclass(frozen=True, slots=True)
class Marks:
    """Three characters that the request does not use: around guarded places, and at the end of a message."""

    opening: str
    closing: str
    end: str

    @classmethod
    def unused_in(cls, *texts: str) -> Marks:
        """`texts`: JSON with non-ASCII as it is. Raises `InvalidRequest` where they leave fewer than three."""
        used: set[str] = set()
        for text in texts:
            used.update(_NONCHARACTER.findall(text))
            # What remains of its escaped form, wherever a backslash may come from.
            used.update(chr(int(code, 16)) for code in _ESCAPED.findall(text.lower()))
        free = [character for character in _NONCHARACTERS if character not in used]
        if len(free) < 3:
            raise InvalidRequest("the messages use every Unicode noncharacter from U+FDD0 to U+FDEF", param="messages")
        return cls(*free[:3])

    def restored(self, text: str) -> str:
        """`text` with marks that came out as their escapes, as Python writes them in objects and JSON in ASCII."""
        if "\\ufd" in text:
            for mark in (self.opening, self.closing, self.end):
                text = text.replace(f"\\u{ord(mark):04x}", mark)
        return text


class ControlGuard:
    """Finds what is written like a control token, or could become one at the edges of a text."""

    def __init__(self, control_texts: Sequence[str]) -> None:
        longest_first = sorted(filter(None, control_texts), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._trailing = re.compile(f"(?:{self._pattern.pattern})+$") if self._pattern else None
        # A text without the first or last character of any control token holds no such place; nearly all are sorted
        # out by this one search.
        edges = {text[0] for text in longest_first} | {text[-1] for text in longest_first}
        self._suspect = re.compile("[" + "".join(map(re.escape, sorted(edges))) + "]") if edges else None
        self._beginnings = {text[:length] for text in longest_first for length in range(1, len(text))}
        self._ends = {text[-length:] for text in longest_first for length in range(1, len(text))}
        self._longest = max(map(len, longest_first), default=0)

    def mark(self, text: str, marks: Marks) -> str:
        """`text` with the two marks around each such place; unchanged where there is none."""
        if self._pattern is None or self._suspect is None or not self._suspect.search(text):
            return text
        spans = [match.span() for match in self._pattern.finditer(text)]
        reach = min(self._longest, len(text) + 1)
        head = max((n for n in range(1, reach) if text[:n] in self._ends), default=0)
        tail = max((n for n in range(1, reach) if text[-n:] in self._beginnings), default=0)
        if head:
            spans.insert(0, (0, head))
        if tail:
            spans.append((len(text) - tail, len(text)))
        if not spans:
            return text
        pieces, end = [], 0
        for start, stop in _merged(spans):
            pieces += [text[end:start], marks.opening, text[start:stop], marks.closing]
            end = stop
        return "".join([*pieces, text[end:]])

    def mark_all(self, value: Any, marks: Marks) -> Any:
        """`value` (JSON) with every string marked, the user's keys included; roles and types are left alone."""
        if isinstance(value, str):
            return self.mark(value, marks)
        if isinstance(value, list | tuple):
            return [self.mark_all(item, marks) for item in value]
        if isinstance(value, Mapping):
            return {
                key if key in _STRUCTURAL_KEYS else self.mark(key, marks): item
                if key == "role" or (key == "type" and isinstance(item, str) and item in _TYPES)
                else self.mark_all(item, marks)
                for key, item in value.items()
            }
        return value

    def parts(self, text: str, marks: Marks) -> Iterator[tuple[str, bool]]:
        """The pieces of a rendered prompt, each with whether control tokens in it are the template's own."""
        special = True
        pieces = re.split(f"([{marks.opening}{marks.closing}])", text)
        for piece, follower in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
            if special and follower == marks.closing:
                # The template has cut the opening mark off: what is written like a control token here is the user's.
                yield from self._cut_off(piece)
            elif piece:
                yield piece, special
            special = follower != marks.opening

    def _cut_off(self, piece: str) -> Iterator[tuple[str, bool]]:
        found = self._trailing.search(piece) if self._trailing else None
        start = found.start() if found else len(piece)
        if piece[:start]:
            yield piece[:start], True
        if piece[start:]:
            yield piece[start:], False


def _merged(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start, stop = spans[0]
    for next_start, next_stop in sorted(spans)[1:]:
        if next_start > stop:
            yield start, stop
            start, stop = next_start, next_stop
        else:
            stop = max(stop, next_stop)
    yield start, stop
