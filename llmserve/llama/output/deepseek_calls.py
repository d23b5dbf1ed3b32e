"""DeepSeek's calls between its own marks: V3 and R1 with a block of Markdown, V3.1 without."""

from __future__ import annotations

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.events import Malformed
from llmserve.llama.output.source import Reading, Source, Stops

CALLS_BEGIN = "<｜tool▁calls▁begin｜>"
CALLS_END = "<｜tool▁calls▁end｜>"
CALL_BEGIN = "<｜tool▁call▁begin｜>"
CALL_END = "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
_SEPARATOR = Stops((SEPARATOR,))
_LINE_END = Stops(("\n",))
# Distilled models spell the marks with what their own vocabularies have.
_CALLS_BEGIN = (
    CALLS_BEGIN,
    "<｜tool_calls_begin｜>",
    "<｜tool calls begin｜>",
    r"<｜tool\_calls\_begin｜>",
    "<｜tool▁calls｜>",
)
_FENCES = ("```json", "```")
# V3 and R1 name the kind of tool before the separator, and the tool behind it.
_KIND = "function"


class DeepSeekCalls:
    triggers: tuple[str, ...] = (*_CALLS_BEGIN, CALL_BEGIN)
    beginnings: tuple[str, ...] = ()

    def read(self, source: Source, calls: CallWriter) -> Reading[None]:
        yield from source.skip(*_CALLS_BEGIN)
        yield from source.require(CALL_BEGIN)
        yield from self._read_call(source, calls)
        while (yield from source.skip(CALL_BEGIN)):
            yield from self._read_call(source, calls)
        yield from source.skip_closing(CALLS_END)
        source.commit()

    @staticmethod
    def _read_call(source: Source, calls: CallWriter) -> Reading[None]:
        name, _ = yield from source.label(_SEPARATOR)
        if name == _KIND:
            name, _ = yield from source.label(_LINE_END)
        fence = yield from source.skip(*_FENCES)
        if (yield from source.next_is_after_space("{")) is None:
            raise Malformed("a call has no arguments")
        yield from calls.start(name)
        yield from source.pass_json(calls.arguments)
        if fence is not None:
            yield from source.skip_closing("```")
        yield from source.skip_closing(CALL_END)
        source.commit()
