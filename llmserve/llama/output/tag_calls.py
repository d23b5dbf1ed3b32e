"""Calls between `<tool_call>` tags: JSON (Hermes, Qwen), `<function=...>` (Qwen3-Coder) or `<arg_key>` (GLM).

Models and their derivatives mix the three, so what follows the tag decides, not the model's family.
"""

from __future__ import annotations

from collections.abc import Callable

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.events import Malformed, ToolCallArguments
from llmserve.llama.output.json_calls import read_objects
from llmserve.llama.output.json_scanner import JsonScanner
from llmserve.llama.output.source import Reading, Source, Stops, parse, quote
from llmserve.llama.output.tools import Tool

_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
_FUNCTION = "<function="
_PARAMETER = "<parameter="
_FUNCTION_END = "</function>"
_PARAMETER_END = "</parameter>"
_KEY = "<arg_key>"
_VALUE = "<arg_value>"
_VALUE_END = "</arg_value>"
_CLOSE_BRACKET = Stops((">",))
# Qwen3-Coder sometimes forgets to close a parameter; what begins the next line then ends it.
_PARAMETER_STOPS = Stops((_PARAMETER_END, f"\n{_PARAMETER}", f"\n{_FUNCTION_END}"))
_KEY_END = Stops(("</arg_key>",))
_VALUE_STOPS = Stops((_VALUE_END,))


class TagCalls:
    """`opening` and `closing` are the tags around a call, `<tool_call>` unless the family has others."""

    beginnings: tuple[str, ...] = ()

    def __init__(self, opening: str = "<tool_call>", closing: str = "</tool_call>") -> None:
        self._opening = opening
        self._closing = closing
        self._name_stops = Stops((_KEY, closing, "\n"))
        self.triggers: tuple[str, ...] = (opening, _FUNCTION)

    def read(self, source: Source, calls: CallWriter) -> Reading[None]:
        tagged = yield from source.skip(self._opening)
        yield from source.skip_space()
        form = yield from source.next_is("{", "[", _FUNCTION)
        if form == _FUNCTION:
            while (yield from source.skip(_FUNCTION)):
                yield from _read_function(source, calls)
        elif form is not None:
            yield from read_objects(source, calls)
        else:
            yield from self._read_keys_and_values(source, calls)
        if tagged:
            yield from source.skip_closing(self._closing)
        source.commit()

    def _read_keys_and_values(self, source: Source, calls: CallWriter) -> Reading[None]:
        """GLM's form, from the name on."""
        name, stop = yield from source.label(self._name_stops)
        source.advance(0 if stop == "\n" else -len(stop))
        found = yield from source.next_is_after_space(_KEY, self._closing, "{")
        if found is None and not source.exhausted:
            raise Malformed("a call has no arguments")
        tool = yield from calls.start(name)
        if found == "{":
            yield from source.pass_json(calls.arguments)
            return
        members = Members(calls, tool)
        while (yield from source.skip(_KEY)):
            key, _ = yield from source.label(_KEY_END)
            yield from source.require(_VALUE)
            yield from members.write(source, key, _VALUE_STOPS)
            yield from source.require(_VALUE_END)
        yield from members.close()


def _read_function(source: Source, calls: CallWriter) -> Reading[None]:
    """A function of Qwen3-Coder's form whose `<function=` is read."""
    name, _ = yield from source.label(_CLOSE_BRACKET)
    found = yield from source.next_is_after_space(_PARAMETER, _FUNCTION_END, "{")
    if found is None and not source.exhausted:
        raise Malformed("a call has no arguments")
    tool = yield from calls.start(name)
    if found == "{":
        yield from source.pass_json(calls.arguments)
    else:
        members = Members(calls, tool)
        while (yield from source.skip(_PARAMETER)):
            key, _ = yield from source.label(_CLOSE_BRACKET)
            if (yield from source.next_is("\n")):
                source.advance(1)
            yield from members.write(source, key, _PARAMETER_STOPS, line_break=True)
            yield from source.skip(_PARAMETER_END)
        yield from members.close()
    yield from source.skip_closing(_FUNCTION_END)
    source.commit()


class Members:
    """Writes arguments that come one by one, as texts, as one JSON object."""

    def __init__(self, calls: CallWriter, tool: Tool) -> None:
        self._calls = calls
        self._tool = tool
        self._empty = True

    def write(self, source: Source, key: str, stops: Stops, *, line_break: bool = False) -> Reading[None]:
        """One argument, whose text ends at a stop; with `line_break`, one line break before the stop is not part of it.

        Where the schema wants a string the text is passed on as it comes. Otherwise it is read whole, and is JSON if
        it is written so and the schema allows the type, and a string if not.
        """
        types = self._tool.types_of(key)
        head = f"{'{' if self._empty else ', '}{quote(key)}: "
        if types == {"string"}:
            yield from self._calls.write(f'{head}"')
            self._empty = False
            yield from _pass_string(source, stops, self._calls.arguments, line_break=line_break)
            yield from self._calls.write('"')
            return
        text, _ = yield from source.text_to(stops)
        if line_break:
            text = text.removesuffix("\n")
        yield from self._calls.write(head + _as_json(text, types))
        self._empty = False

    def close(self) -> Reading[None]:
        yield from self._calls.write("{}" if self._empty else "}")


def _pass_string(
    source: Source, stops: Stops, event: Callable[[str], ToolCallArguments], *, line_break: bool
) -> Reading[None]:
    """Pass the inside of a string on as it comes, up to a stop, which is not read."""
    while True:
        rest = source.rest
        place, stop = stops.find(rest, ended=source.ended)
        end = place - 1 if line_break and rest[:place].endswith("\n") and (stop or not source.ended) else place
        if end:
            source.advance(end)
            yield event(quote(rest[:end])[1:-1])
            source.commit()
        if stop is not None:
            source.advance(place - end)
            return
        yield from source.more()


def _as_json(text: str, types: frozenset[str]) -> str:
    """The JSON text of an argument written as `text`, given the types it may have (none: any)."""
    scanner = JsonScanner()
    stripped = text.strip()
    value, length, problem = scanner.take(stripped, ended=True)
    if problem is None and scanner.complete and length == len(stripped) and _is_one_of(value, types):
        return value
    return quote(text)


def _is_one_of(text: str, types: frozenset[str]) -> bool:
    try:
        value = parse(text)
    except Malformed:
        return False
    kind = _TYPES.get(type(value), "null")
    # A string is written without quotation marks, so those it has are its own.
    if kind == "string" or not types:
        return kind != "string"
    return kind in types or (kind == "integer" and "number" in types)
