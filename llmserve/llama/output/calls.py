"""Numbers and names the calls of one answer, whatever form they come in."""

from __future__ import annotations

import re
import secrets
from typing import Any

from llmserve.llama.output.events import Malformed, ToolCallArguments, ToolCallStart
from llmserve.llama.output.source import Reading, Source
from llmserve.llama.output.tools import Tool, ToolSet

# What a client may send back of an earlier answer.
MAX_CALLS = 128

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


class CallWriter:
    """Turns what readers find into events of numbered calls, each with an id of its own."""

    def __init__(self, source: Source, tools: ToolSet) -> None:
        self._source = source
        self.tools = tools
        self.count = 0

    def start(self, name: object) -> Reading[Tool]:
        """Begin the next call; what was read of it is accounted for. Raises `Malformed` for what is no name."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise Malformed("a call names no function")
        if self.count == MAX_CALLS:
            raise Malformed(f"more than {MAX_CALLS} calls")
        bare = name.removeprefix("functions.")
        name = bare if bare in self.tools else name
        index = self.count
        self.count += 1
        yield ToolCallStart(index, f"call_{secrets.token_hex(12)}", name)
        self._source.commit()
        return self.tools.get(name)

    def arguments(self, text: str) -> ToolCallArguments:
        """The event for more arguments of the present call."""
        return ToolCallArguments(self.count - 1, text)

    def write(self, text: str) -> Reading[None]:
        """Write more arguments of the present call; what was read for them is accounted for."""
        yield self.arguments(text)
        self._source.commit()

    def check_known(self, name: object) -> None:
        """Raises `Malformed` unless the request offers a tool of that name."""
        if not isinstance(name, str) or name not in self.tools:
            raise Malformed("it names none of the tools")

    def whole(self, name: object, value: Any, text: str) -> Reading[None]:
        """A call whose arguments were read whole: `value` as parsed from `text`."""
        if not isinstance(value, dict):
            raise Malformed("the arguments of a call are no object")
        yield from self.start(name)
        yield from self.write(text)
