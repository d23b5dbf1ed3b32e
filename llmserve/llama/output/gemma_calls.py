"""FunctionGemma's and Gemma 4's calls: `call:name{key:value,...}` between tags, with marks for quotation marks."""

from __future__ import annotations

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.loose_values import Notation, write_value
from llmserve.llama.output.source import Reading, Source, Stops

OPENINGS = ("<|tool_call>", "<start_function_call>")
CLOSINGS = ("<tool_call|>", "<end_function_call>")
QUOTES = ('<|"|>', "<escape>")
_NOTATION = Notation(escaping=('"',), literal=QUOTES, bare_keys=True)
_BRACE = Stops(("{",))


class GemmaCalls:
    triggers: tuple[str, ...] = OPENINGS
    beginnings: tuple[str, ...] = ()

    def read(self, source: Source, calls: CallWriter) -> Reading[None]:
        yield from source.require(*OPENINGS)
        yield from source.require("call:")
        name, _ = yield from source.label(_BRACE)
        source.advance(-1)
        yield from calls.start(name)
        yield from write_value(source, calls, _NOTATION)
        yield from source.skip_closing(*CLOSINGS)
        source.commit()
