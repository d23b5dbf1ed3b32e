"""Values that are nearly JSON, as Python or Gemma's own notation writes them, passed on as JSON."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.events import Malformed
from llmserve.llama.output.json_scanner import MAX_DEPTH
from llmserve.llama.output.source import Reading, Source, Stops, dump, quote

_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
_OPEN_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]?|u[0-9a-fA-F]{0,3}|U[0-9a-fA-F]{0,7}|[0-7]{1,2})?")
_PLAIN_ESCAPES = {"\n": "", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b"}
_PLAIN_ESCAPES |= {"f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORDS = {"true": "true", "True": "true", "false": "false", "False": "false"} | dict.fromkeys(
    ("null", "None", "nil"), "null"
)
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_COLON = Stops((":",))


@dataclass(frozen=True, slots=True)
class Notation:
    """How strings and keys are written. In strings between `escaping` delimiters a backslash means something."""

    escaping: tuple[str, ...]
    literal: tuple[str, ...] = ()
    bare_keys: bool = False

    @property
    def delimiters(self) -> tuple[str, ...]:
        return self.escaping + self.literal


PYTHON = Notation(escaping=('"""', "'''", '"', "'"))


def write_value(source: Source, calls: CallWriter, notation: Notation, depth: int = 0) -> Reading[None]:
    """Read one value and write it as JSON, piece by piece. Raises `Malformed`."""
    if depth > MAX_DEPTH:
        raise Malformed(f"the value is nested more than {MAX_DEPTH} deep")
    opening = yield from source.skip(*notation.delimiters, "[", "(", "{")
    if opening is None:
        yield from calls.write(literal((yield from source.word())))
    elif opening == "{":
        yield from _write_object(source, calls, notation, depth)
    elif opening in "[(":
        yield from _write_list(source, calls, notation, depth, "]" if opening == "[" else ")")
    else:
        yield from _write_string(source, calls, opening, escapes=opening in notation.escaping)


def literal(word: str) -> str:
    """The JSON text of a number, or of a word for true, false or nothing. Raises `Malformed`."""
    if word in _WORDS:
        return _WORDS[word]
    if _JSON_NUMBER.fullmatch(word):
        return word
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Malformed("a word is no value" if word else "a value is missing")
    return dump(number)


def _write_object(source: Source, calls: CallWriter, notation: Notation, depth: int) -> Reading[None]:
    yield from calls.write("{")
    separator = ""
    while not (yield from source.skip("}")):
        if separator:
            yield from source.require(",")
            if (yield from source.skip("}")):
                break
        yield from _write_key(source, calls, notation, separator)
        yield from write_value(source, calls, notation, depth + 1)
        separator = ", "
    yield from calls.write("}")


def _write_key(source: Source, calls: CallWriter, notation: Notation, separator: str) -> Reading[None]:
    opening = yield from source.skip(*notation.delimiters)
    if opening is not None:
        yield from calls.write(separator)
        yield from _write_string(source, calls, opening, escapes=opening in notation.escaping)
        yield from source.require(":")
        yield from calls.write(": ")
        return
    if not notation.bare_keys:
        raise Malformed("a key is missing")
    key, _ = yield from source.label(_COLON)
    yield from calls.write(f"{separator}{quote(key)}: ")


def _write_list(source: Source, calls: CallWriter, notation: Notation, depth: int, closing: str) -> Reading[None]:
    yield from calls.write("[")
    separator = ""
    while not (yield from source.skip(closing)):
        if separator:
            yield from source.require(",")
            if (yield from source.skip(closing)):
                break
            yield from calls.write(separator)
        yield from write_value(source, calls, notation, depth + 1)
        separator = ", "
    yield from calls.write("]")


def _write_string(source: Source, calls: CallWriter, delimiter: str, *, escapes: bool) -> Reading[None]:
    """The rest of a string whose opening delimiter is read."""
    stops = Stops((delimiter, "\\") if escapes else (delimiter,))
    yield from calls.write('"')
    while True:
        rest = source.rest
        place, stop = stops.find(rest, ended=source.ended)
        if place:
            source.advance(place)
            yield from calls.write(quote(rest[:place])[1:-1])
        if stop == delimiter:
            source.advance(len(delimiter))
            yield from calls.write('"')
            return
        if stop is None:
            yield from source.more()
        else:
            yield from calls.write((yield from _escape(source)))


def _escape(source: Source) -> Reading[str]:
    """The inside of a JSON string for the escape that stands next."""
    while _OPEN_ESCAPE.fullmatch(source.rest) and not source.ended:
        yield None
    found = _ESCAPE.match(source.rest)
    if found is None:
        raise Malformed("a string ends in a backslash")
    source.advance(len(found[0]))
    body = found[0][1:]
    if len(body) > 1 or body in "01234567":
        code = int(body, 8) if body.isdigit() else int(body[1:], 16)
        if 0xD800 <= code <= 0xDFFF:
            return f"\\u{code:04x}"
        return quote(_character(code))[1:-1]
    # As in Python, a backslash before anything else is itself.
    return quote(_PLAIN_ESCAPES.get(body, found[0]))[1:-1]


def _character(code: int) -> str:
    try:
        return chr(code)
    except ValueError as error:
        raise Malformed("an escape is no character") from error
