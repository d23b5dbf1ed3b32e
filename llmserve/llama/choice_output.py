"""One answer of a chat while it is written: its text becomes reasoning, content and calls."""

from __future__ import annotations

import logging
from collections.abc import Callable

from llmserve.llama.output.events import Content, OutputEvent, Reasoning, ToolCallArguments, ToolCallStart
from llmserve.llama.output.parser import OutputParser
from llmserve.llama.thought_gate import ThoughtGate
from llmserve.llama.token_rule import TokenRule
from llmserve.openai.responses import Choice, FinishReason, ToolInvocation

_log = logging.getLogger(__name__)


class ChoiceOutput:
    """`rule` is what its tokens have to follow, None for nothing; `count` gives the number of tokens of a text."""

    def __init__(self, parser: OutputParser, rule: TokenRule | None, count: Callable[[str], int]) -> None:
        self._parser = parser
        self.rule = rule
        self._count = count
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[ToolCallStart, list[str]]] = []
        self._counted = 0

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens were thought so far."""
        return self.rule.used if isinstance(self.rule, ThoughtGate) else self._counted

    def take(self, text: str, *, ended: bool) -> list[OutputEvent]:
        """What more text of the answer makes certain; `ended`: no more will come."""
        events = self._parser.feed(text)
        if ended:
            events += self._parser.finish()
            for warning in self._parser.warnings:
                _log.warning("an answer was returned as text where %s", warning)
        for event in events:
            self._note(event)
        return events

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        """Why the answer ended, given why its text did."""
        return "tool_calls" if reason == "stop" and self._parser.called else reason

    def choice(self, reason: FinishReason) -> Choice:
        """The finished answer."""
        return Choice(
            text="".join(self._content),
            finish_reason=self.finish_reason(reason),
            reasoning="".join(self._reasoning) or None,
            tool_calls=tuple(ToolInvocation(call.id, call.name, "".join(pieces)) for call, pieces in self._calls),
        )

    def _note(self, event: OutputEvent) -> None:
        match event:
            case Content(text):
                self._content.append(text)
            case Reasoning(text):
                self._reasoning.append(text)
                # Text comes in whole tokens but for what was held back, so the sum over the pieces is about right.
                self._counted += self._count(text)
            case ToolCallStart():
                self._calls.append((event, []))
            case ToolCallArguments(index, text):
                self._calls[index][1].append(text)
