"""Calls that stand in the text like any other: JSON objects (Llama 3, Gemma) or Python calls (Llama 3.2 and 4, Gemma).

Only the name of a tool of the request tells such a call from JSON or Python that is meant to be read. Some families
put a tag before it, which does so too; what follows is in either form.
"""

from __future__ import annotations

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.events import Malformed
from llmserve.llama.output.json_calls import read_objects, read_rest_of_list
from llmserve.llama.output.loose_values import PYTHON, literal, write_value
from llmserve.llama.output.source import Reading, Source, Stops, quote
from llmserve.llama.output.tools import Tool, ToolSet

_FENCES = ("```json", "```tool_code", "```tool_call", "```python", "```")
_WRAPPERS = ("print(", "default_api.")
_PARENTHESIS = Stops(("(",))


class PlainCalls:
    """`openings` are the tags that may stand before calls, `closings` those that may stand behind them."""

    def __init__(self, tools: ToolSet, openings: tuple[str, ...] = (), closings: tuple[str, ...] = ()) -> None:
        self._openings = openings
        self._closings = closings
        self._heads = tuple(f"{name}(" for name in tools.names)
        self.triggers = (
            *openings,
            *('{"name"', '{"type": "function"', '{"function"'),
            *(f"[{head}" for head in self._heads),
        )
        self.beginnings = ("{", "[", *_FENCES, *self._heads) if tools else ()

    def read(self, source: Source, calls: CallWriter) -> Reading[None]:
        tag = yield from source.skip(*self._openings, *_FENCES)
        tagged = tag in self._openings
        if (yield from source.skip("[")):
            yield from self._read_rest_of_list(source, calls, tagged=tagged)
        elif (yield from source.next_is_after_space("{")):
            yield from read_objects(source, calls, known_only=not tagged)
        else:
            yield from self._read_call(source, calls, tagged=tagged)
            while (yield from source.next_is_after_space(*self._heads, *_WRAPPERS)):
                yield from self._read_call(source, calls, tagged=tagged)
        if tagged and self._closings:
            yield from source.skip_closing(*self._closings)
        elif tag is not None and not tagged:
            yield from source.skip_closing("```")
        source.commit()

    def _read_rest_of_list(self, source: Source, calls: CallWriter, *, tagged: bool) -> Reading[None]:
        if (yield from source.next_is_after_space("{")):
            yield from read_rest_of_list(source, calls, known_only=not tagged)
            return
        while True:
            yield from self._read_call(source, calls, tagged=tagged)
            if (yield from source.require(",", "]")) == "]":
                source.commit()
                return

    def _read_call(self, source: Source, calls: CallWriter, *, tagged: bool) -> Reading[None]:
        wrapped = False
        while wrapper := (yield from source.skip(*_WRAPPERS)):
            wrapped = wrapped or wrapper == "print("
        if not tagged and not (yield from source.next_is_after_space(*self._heads)):
            raise Malformed("it names none of the tools")
        name, _ = yield from source.label(_PARENTHESIS)
        # Llama 3.1 writes its built-in tools as methods: brave_search.call(query="...").
        yield from read_arguments(source, calls, name.removesuffix(".call"))
        if wrapped:
            yield from source.require(")")
        source.commit()


def read_arguments(source: Source, calls: CallWriter, name: str) -> Reading[None]:
    """The arguments of a Python call whose `(` is read, up to its `)`."""
    if (yield from source.skip(")")):
        yield from calls.start(name)
        yield from calls.write("{}")
        return
    known = calls.tools.get(name)
    position = 0
    while True:
        key, word = yield from _key(source, known, position)
        if not position:
            yield from calls.start(name)
        yield from calls.write(f"{', ' if position else '{'}{quote(key)}: ")
        if word:
            yield from calls.write(literal(word))
        else:
            yield from write_value(source, calls, PYTHON)
        position += 1
        if (yield from source.require(",", ")")) == ")" or (yield from source.skip(")")):
            yield from calls.write("}")
            return


def _key(source: Source, tool: Tool, position: int) -> Reading[tuple[str, str]]:
    """The next argument's name, and the word that is its value if it was read already.

    An argument without a name has that of the parameter at its position. Raises `Malformed`.
    """
    yield from source.skip_space()
    word = yield from source.word()
    if word and (yield from source.skip("=")):
        return word, ""
    if word:
        literal(word)
    if position >= len(tool.parameter_names):
        raise Malformed("an argument has no name")
    return tool.parameter_names[position], word
