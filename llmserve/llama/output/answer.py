"""Reads an answer whose thoughts and calls stand between marks in its text: every family's but gpt-oss's."""

from __future__ import annotations

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.events import Content, Reasoning
from llmserve.llama.output.reader import CallReader
from llmserve.llama.output.reasoning import ReasoningStyle
from llmserve.llama.output.source import Reading, Source, Stops


class TextAnswer:
    """Thoughts, then text with calls in it. `inside`: the prompt has opened the thoughts. `reader` None: no calls."""

    def __init__(self, style: ReasoningStyle, reader: CallReader | None, *, inside: bool) -> None:
        self._style = style
        self._reader = reader
        self._inside = inside
        self._begun = False
        self._spoken = False
        self._stops = Stops((*style.hidden, *(reader.triggers if reader else ())))

    def read(self, source: Source, calls: CallWriter) -> Reading[None]:
        """Raises `Malformed` where a call makes no sense; may then be called again to go on behind it."""
        if not self._begun:
            self._begun = True
            yield from self._read_reasoning(source)
            if self._reader is not None and self._reader.beginnings:
                if (yield from source.next_is_after_space(*self._reader.beginnings)):
                    yield from self._read_calls(self._reader, source, calls)
                source.rewind()
        while True:
            stop = yield from source.pass_text(self._stops, self._content, trim=self._reader is not None)
            if stop is None:
                return
            if stop in self._style.hidden:
                yield from source.skip(stop)
                source.commit()
            elif self._reader is not None:
                yield from self._read_calls(self._reader, source, calls)

    def _read_reasoning(self, source: Source) -> Reading[None]:
        opening = yield from source.skip(*self._style.openings)
        if opening is None and not self._inside:
            source.rewind()
            return
        yield from source.skip_space()
        source.commit()
        closing = yield from source.pass_text(Stops(self._style.closings), Reasoning)
        if closing is not None:
            yield from source.skip(closing)
            yield from source.skip_space()
            source.commit()

    def _content(self, text: str) -> Content:
        self._spoken = True
        return Content(text)

    def _read_calls(self, reader: CallReader, source: Source, calls: CallWriter) -> Reading[None]:
        yield from source.skip_space()
        yield from reader.read(source, calls)
        if not self._spoken:
            yield from source.skip_space()
            source.commit()
