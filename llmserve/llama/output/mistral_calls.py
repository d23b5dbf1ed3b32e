"""Mistral's calls: `[TOOL_CALLS] [{...}, ...]`, and since tokenizer version 11 `[TOOL_CALLS]name[ARGS]{...}`."""

from __future__ import annotations

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.events import Malformed
from llmserve.llama.output.json_calls import read_objects
from llmserve.llama.output.source import Reading, Source, Stops

TOOL_CALLS = "[TOOL_CALLS]"
ARGS = "[ARGS]"
CALL_ID = "[CALL_ID]"
_NAME_END = Stops((ARGS, CALL_ID, "{"))
_ID_END = Stops((ARGS, "{"))


class MistralCalls:
    triggers: tuple[str, ...] = (TOOL_CALLS,)
    beginnings: tuple[str, ...] = ()

    def read(self, source: Source, calls: CallWriter) -> Reading[None]:
        yield from source.require(TOOL_CALLS)
        if (yield from source.next_is_after_space("[{", "[ {", "{")):
            yield from read_objects(source, calls)
            return
        name, stop = yield from source.label(_NAME_END)
        if stop == CALL_ID:
            # The model's own number of the call; a client gets ours, which is unique.
            identity, stop = yield from source.label(_ID_END)
            if not identity.isalnum():
                raise Malformed("a call's number is none")
        if stop == "{":
            source.advance(-1)
        yield from calls.start(name)
        yield from source.pass_json(calls.arguments)
