"""Calls written as JSON objects: `{"name": "f", "arguments": {...}}`, with or without a tag before them."""

from __future__ import annotations

from typing import Any

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.events import Malformed
from llmserve.llama.output.source import Reading, Source, dump, parse

_ARGUMENTS = ("arguments", "parameters", "args")
_NAMES = ("name", "function")
_OTHERS = ("id", "type", "index")
_KEYS = (*_NAMES, *_ARGUMENTS, *_OTHERS)


class TaggedJsonCalls:
    """Calls after a tag of their own: Granite's and Phi-4's `<|tool_call|>[...]`, `functools[...]` and such.

    `closings` are the tags that may stand behind them. A tag that ends with `[` begins the list itself.
    """

    beginnings: tuple[str, ...] = ()

    def __init__(self, openings: tuple[str, ...], closings: tuple[str, ...]) -> None:
        self.triggers = openings
        self._closings = closings

    def read(self, source: Source, calls: CallWriter) -> Reading[None]:
        opening = yield from source.require(*self.triggers)
        if opening.endswith("["):
            yield from read_rest_of_list(source, calls)
        else:
            yield from read_objects(source, calls)
        if self._closings:
            yield from source.skip_closing(*self._closings)
        source.commit()


def read_objects(source: Source, calls: CallWriter, *, known_only: bool = False) -> Reading[None]:
    """One or more call objects, or a list of them."""
    if (yield from source.require("{", "[")) == "[":
        yield from read_rest_of_list(source, calls, known_only=known_only)
        return
    yield from _read_rest_of_object(source, calls, known_only=known_only)
    yield from _read_more_objects(source, calls, known_only=known_only)


def read_rest_of_list(source: Source, calls: CallWriter, *, known_only: bool = False) -> Reading[None]:
    """A list of call objects whose `[` is read."""
    if (yield from source.skip("]")):
        source.commit()
        return
    while True:
        yield from source.require("{")
        yield from _read_rest_of_object(source, calls, known_only=known_only)
        if (yield from source.require(",", "]")) == "]":
            source.commit()
            return


def _read_more_objects(source: Source, calls: CallWriter, *, known_only: bool) -> Reading[None]:
    while separator := (yield from source.skip("{", ";", ",")):
        if separator != "{":
            yield from source.require("{")
        yield from _read_rest_of_object(source, calls, known_only=known_only)


def _read_rest_of_object(source: Source, calls: CallWriter, *, known_only: bool) -> Reading[None]:
    """A call object whose `{` is read. Its arguments are passed on as they come if the name stands before them."""
    name: Any = None
    arguments: tuple[Any, str] | None = None
    started = False
    keys = 0
    while (key := (yield from _next_key(source, first=not keys))) is not None:
        keys += 1
        if key in _ARGUMENTS and isinstance(name, str) and (yield from source.next_is_after_space("{")):
            if started:
                raise Malformed("a call has its arguments twice")
            started = True
            yield from calls.start(name)
            yield from source.pass_json(calls.arguments)
            continue
        text = yield from source.json_text()
        value = parse(text)
        if key in _ARGUMENTS:
            arguments = _arguments(value, text)
        elif key in _NAMES:
            name, inner = _name(value)
            arguments = inner or arguments
            if known_only:
                calls.check_known(name)
    if not started:
        value, text = arguments or ({}, "{}")
        yield from calls.whole(name, value, text)
    source.commit()


def _next_key(source: Source, *, first: bool) -> Reading[str | None]:
    """The next key of a call object, with its colon; None at the object's end."""
    if (yield from source.skip("}")):
        return None
    if not first:
        yield from source.require(",")
    if (yield from source.next_is_after_space('"')) is None:
        raise Malformed("a key is missing")
    key = yield from source.json_value()
    if key not in _KEYS:
        raise Malformed("the object is no call")
    yield from source.require(":")
    return str(key)


def _arguments(value: Any, text: str) -> tuple[Any, str]:
    """Arguments that were read whole; some models write them as a string that holds JSON."""
    if value is None or value == "":
        return {}, "{}"
    if isinstance(value, str):
        value = parse(value)
        return value, dump(value)
    return value, text


def _name(value: Any) -> tuple[Any, tuple[Any, str] | None]:
    """The name that `name` or `function` holds, and the arguments beside it in an inner object."""
    if not isinstance(value, dict):
        return value, None
    if not value.keys() <= set(_KEYS):
        raise Malformed("the object is no call")
    inner = next((value[key] for key in _ARGUMENTS if key in value), None)
    return value.get("name"), _arguments(inner, dump(inner)) if inner is not None else None
