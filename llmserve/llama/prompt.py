"""From a request to prompt tokens, so that nothing a user writes becomes a control token.

A chat template mixes its own control tokens (`<|im_start|>`) with the users' text, and the result is tokenised as one
string. So every place in a user's text that is written like a control token, or could become one together with what
the template puts beside it, is wrapped in two marks before rendering: Unicode noncharacters that occur nowhere in the
request. After rendering, what lies between marks is tokenised as plain text and the rest with control tokens
recognised. Text without such places, nearly all text, is not touched, and templates that trim, split or compare
content work as ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from llmserve.errors import ContextLengthExceeded, InvalidRequest
from llmserve.llama.chat_template import ChatTemplate

# Noncharacters: valid in UTF-8, never assigned, free for a program's inner use (Unicode standard, section 23.7).
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
# No vocabulary has longer tokens than a few hundred bytes; a prompt above this many bytes per token of context is
# refused before it is tokenised.
_MOST_BYTES_PER_TOKEN = 512


class Vocabulary(Protocol):
    adds_bos: bool

    @property
    def bos(self) -> int: ...

    def tokenize(self, text: str, *, special: bool) -> list[int]: ...
    def control_texts(self) -> tuple[str, ...]: ...


class PromptBuilder:
    """Renders and tokenises prompts for one model. Safe to use from one thread at a time."""

    def __init__(self, vocabulary: Vocabulary, template: ChatTemplate, context: int) -> None:
        self._vocabulary = vocabulary
        self._template = template
        self._context = context
        self._guard = ControlGuard(vocabulary.control_texts())

    def chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Prompt tokens of a chat. Raises `InvalidRequest` (template) or `ContextLengthExceeded`."""
        marks = _unused_marks(messages)
        marked = [_map_strings(message, lambda text: self._guard.mark(text, *marks)) for message in messages]
        text = self._template.render(marked)
        self._bound(text)
        tokens: list[int] = []
        for part, special in _parts(text, *marks):
            tokens += self._vocabulary.tokenize(part, special=special)
        return self._checked(tokens, "messages")

    def completion(self, prompt: str | Sequence[int], vocabulary_size: int) -> list[int]:
        """Prompt tokens of a raw prompt: control tokens in it are recognised, since there is no template to write them.

        Raises `InvalidRequest` for a token id outside the vocabulary, or `ContextLengthExceeded`.
        """
        if isinstance(prompt, str):
            self._bound(prompt)
            return self._checked(self._vocabulary.tokenize(prompt, special=True), "prompt")
        if any(not 0 <= token < vocabulary_size for token in prompt):
            raise InvalidRequest(f"a token id is outside the vocabulary of {vocabulary_size}", param="prompt")
        return self._checked(list(prompt), "prompt", add_bos=False)

    def _checked(self, tokens: list[int], param: str, *, add_bos: bool = True) -> list[int]:
        if add_bos and self._vocabulary.adds_bos and tokens[:1] != [self._vocabulary.bos]:
            tokens.insert(0, self._vocabulary.bos)
        if not tokens:
            raise InvalidRequest("the prompt is empty", param=param)
        if len(tokens) >= self._context:
            raise ContextLengthExceeded(
                f"this model's context is {self._context} tokens and the prompt has {len(tokens)}", param=param
            )
        return tokens

    def _bound(self, text: str) -> None:
        if len(text) > self._context * _MOST_BYTES_PER_TOKEN:
            raise ContextLengthExceeded(
                f"this model's context is {self._context} tokens; a prompt of {len(text)} characters cannot fit"
            )


class ControlGuard:
    """Finds what is written like a control token, or could become one at the edges of a text."""

    def __init__(self, control_texts: Sequence[str]) -> None:
        self._pattern = re.compile("|".join(map(re.escape, control_texts))) if control_texts else None
        self._beginnings = {text[:length] for text in control_texts for length in range(1, len(text))}
        self._ends = {text[-length:] for text in control_texts for length in range(1, len(text))}
        self._longest = max(map(len, control_texts), default=0)

    def mark(self, text: str, opening: str, closing: str) -> str:
        """`text` with the two marks around each such place; unchanged where there is none."""
        if self._pattern is None or not text:
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
            pieces += [text[end:start], opening, text[start:stop], closing]
            end = stop
        return "".join([*pieces, text[end:]])


def _merged(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start, stop = spans[0]
    for next_start, next_stop in sorted(spans)[1:]:
        if next_start > stop:
            yield start, stop
            start, stop = next_start, next_stop
        else:
            stop = max(stop, next_stop)
    yield start, stop


def _parts(text: str, opening: str, closing: str) -> Iterator[tuple[str, bool]]:
    """The pieces of a rendered prompt, each with whether control tokens in it are the template's own."""
    special = True
    for piece in re.split(f"([{opening}{closing}])", text):
        if piece in (opening, closing):
            special = piece == closing
        elif piece:
            yield piece, special


def _unused_marks(messages: Sequence[dict[str, Any]]) -> tuple[str, str]:
    used: set[str] = set()

    def note(text: str) -> str:
        used.update(character for character in _NONCHARACTERS if character in text)
        return text

    for message in messages:
        _map_strings(message, note)
    free = [character for character in _NONCHARACTERS if character not in used]
    if len(free) < 2:
        raise InvalidRequest("the messages use every Unicode noncharacter from U+FDD0 to U+FDEF", param="messages")
    return free[0], free[1]


def _map_strings(value: Any, change: Any) -> Any:
    """`value` (JSON) with every string but the roles and types of its objects changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {key: item if key in ("role", "type") else _map_strings(item, change) for key, item in value.items()}
    return value
