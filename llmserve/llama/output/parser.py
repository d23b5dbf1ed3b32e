"""From the text of an answer, as it arrives, to what it means."""

from __future__ import annotations

from typing import Protocol

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.events import (
    Content,
    Malformed,
    OutputEvent,
    Reasoning,
    ToolCallArguments,
)
from llmserve.llama.output.source import Reading, Source
from llmserve.llama.output.tools import ToolSet


class AnswerReader(Protocol):
    """Reads a whole answer of one format."""

    def read(self, source: Source, calls: CallWriter) -> Reading[None]:
        """Read to the end of the text. Raises `Malformed`, and goes on behind that place when called again."""
        ...


class OutputParser:
    """Reads one answer. What it makes of a text does not depend on the pieces the text comes in.

    Text that may still turn out to be a mark is held back, all other text is passed on at once. What begins like a
    call and does not go on like one is passed on as content, and `warnings` says so; nothing is ever raised and no
    text is lost but marks and the white space around them.
    """

    def __init__(self, reader: AnswerReader, tools: ToolSet) -> None:
        self._source = Source()
        self._calls = CallWriter(self._source, tools)
        self._reader = reader
        self._warnings: list[str] = []
        self._reading = self._read()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was not understood so far, in sentences for the log."""
        return tuple(self._warnings)

    @property
    def called(self) -> bool:
        """Whether the answer has called a tool so far."""
        return self._calls.count > 0

    def feed(self, text: str) -> list[OutputEvent]:
        """What `text`, which goes on where the last one stopped, makes certain."""
        self._source.feed(text)
        return self._advance()

    def finish(self) -> list[OutputEvent]:
        """What is left, now that no more text will come."""
        self._source.ended = True
        return self._advance()

    def _advance(self) -> list[OutputEvent]:
        events: list[OutputEvent] = []
        for event in self._reading:
            if event is None:
                break
            events.append(event)
        return merged(events)

    def _read(self) -> Reading[None]:
        source = self._source
        stuck_at: int | None = None
        while True:
            try:
                yield from self._reader.read(source, self._calls)
                return
            except Malformed as problem:
                if source.position != stuck_at:
                    self._warnings.append(f"text that begins like a tool call is none: {problem}")
                elif source.rest:
                    # Nothing was read since the last time: the mark that stands here is text.
                    source.advance(1)
                else:
                    return
                stuck_at = source.position
                text = source.take_uncommitted()
                if text:
                    yield Content(text)


def merged(events: list[OutputEvent]) -> list[OutputEvent]:
    """The same events, with pieces of one text that follow each other joined."""
    result: list[OutputEvent] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Content) and isinstance(last, Content):
            result[-1] = Content(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            result[-1] = Reasoning(last.text + event.text)
        elif isinstance(event, ToolCallArguments) and isinstance(last, ToolCallArguments) and event.index == last.index:
            result[-1] = ToolCallArguments(event.index, last.text + event.text)
        else:
            result.append(event)
    return result
