"""One answer of a chat while it is written: its text becomes reasoning, content and calls."""

from __future__ import annotations

import logging
from collections.abc import Callable

from llmserve.llama.content_scores import ContentScores
from llmserve.llama.generation import Delta
from llmserve.llama.output.events import Content, OutputEvent, Reasoning, ToolCallArguments, ToolCallStart
from llmserve.llama.output.parser import OutputParser
from llmserve.llama.thought_gate import ThoughtGate
from llmserve.llama.token_rule import TokenRule
from llmserve.openai.logprobs import TokenLogprob
from llmserve.openai.responses import Choice, FinishReason, ToolInvocation

_log = logging.getLogger(__name__)


class ChoiceOutput:
    """`rule` is what its tokens have to follow, None for nothing; `count` gives the number of tokens of a text.

    `scores` is None where nothing is scored.
    """

    def __init__(self, parser: OutputParser, rule: TokenRule | None, count: Callable[[str], int]) -> None:
        self._parser = parser
        self.rule = rule
        self._count = count
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[ToolCallStart, list[str]]] = []
        self._counted = 0
        self.scores: ContentScores | None = None

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens were thought so far."""
        return self.rule.used if isinstance(self.rule, ThoughtGate) else self._counted

    def take_delta(self, delta: Delta) -> list[tuple[OutputEvent, list[TokenLogprob]]]:
        """What `delta` makes certain, and the tokens of what is content."""
        ended = delta.finish_reason is not None
        if self.scores is None:
            return [(event, []) for event in self.take(delta.text, ended=ended)]
        # Token by token, so that it is known which of them an event is made of.
        shown: list[tuple[OutputEvent, list[TokenLogprob]]] = []
        for part in delta.parts:
            self.scores.wrote(part)
            shown += [(event, self.scores.of(event)) for event in self.take(part.text, ended=False)]
        if ended:
            shown += [(event, self.scores.of(event)) for event in self.take("", ended=True)]
        return shown

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
            logprobs=tuple(self.scores.logprobs) if self.scores is not None else None,
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
