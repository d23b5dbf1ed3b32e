"""The text of an answer while it arrives, and the steps every reader of it is made of.

Readers are generators: they yield the events they are sure of, and None where they cannot go on before more text
arrives. So a reader is written down as if the whole text were there, and what it makes of a text does not depend on
the pieces it came in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Sequence
from json.encoder import encode_basestring
from typing import Any, NoReturn, TypeVar

from llmserve.llama.output.events import Malformed, OutputEvent
from llmserve.llama.output.json_scanner import JsonScanner

T = TypeVar("T")
Reading = Generator[OutputEvent | None, None, T]

_ENDS_EARLY = "the text ends inside of it"
# A name or another short thing that does not end within so many characters is none.
_LONGEST_LABEL = 512
_NO_WORD = re.compile(r"[^-+.0-9A-Za-z_]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Stops:
    """Texts at which passing on stops."""

    def __init__(self, texts: Sequence[str]) -> None:
        longest_first = sorted(set(texts), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._beginnings = frozenset(text[:length] for text in longest_first for length in range(1, len(text)))
        self._longest = max(map(len, longest_first), default=0)

    def find(self, text: str, *, ended: bool) -> tuple[int, str | None]:
        """Where the first stop stands in `text`, and which one.

        The stop is None where there is none yet; then everything before the place belongs to no stop, whatever
        follows.
        """
        found = self._pattern.search(text) if self._pattern else None
        open_end = len(text) if ended else len(text) - self._open_end(text)
        if found is not None and found.start() < open_end:
            return found.start(), found[0]
        return open_end, None

    def _open_end(self, text: str) -> int:
        """Length of the longest end of `text` that a stop could go on from."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return length
        return 0


class Source:
    """The text read so far and what of it became an event.

    `commit` says that everything before the present place is accounted for; what is not, when a reader gives up, is
    `take_uncommitted` and becomes content. `ended` is True once no more text will come.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._committed = 0
        self.ended = False

    def feed(self, text: str) -> None:
        self._text += text

    @property
    def rest(self) -> str:
        """What has arrived and is not read yet."""
        return self._text[self._at :]

    @property
    def exhausted(self) -> bool:
        return self.ended and self._at == len(self._text)

    @property
    def position(self) -> int:
        """How many characters of the answer are read."""
        return self._committed + self._at

    def advance(self, length: int) -> None:
        self._at += length

    def rewind(self) -> None:
        """Go back to what is not committed."""
        self._at = 0

    def commit(self) -> None:
        self._committed += self._at
        self._text = self._text[self._at :]
        self._at = 0

    def take_uncommitted(self) -> str:
        text = self._text[: self._at]
        self.commit()
        return text

    def more(self, problem: str = _ENDS_EARLY) -> Reading[None]:
        """Wait for more text. Raises `Malformed` if there is none."""
        if self.ended:
            raise Malformed(problem)
        yield None

    def skip_space(self) -> Reading[None]:
        while True:
            rest = self.rest
            length = len(rest) - len(rest.lstrip())
            self.advance(length)
            if length < len(rest) or self.ended:
                return
            yield None

    def next_is(self, *options: str) -> Reading[str | None]:
        """Which of `options` the text goes on with, the longest of those that fit; None for none. Reads nothing."""
        while True:
            rest = self.rest
            undecided = any(option.startswith(rest) and option != rest for option in options)
            if self.ended or not undecided:
                fitting = [option for option in options if rest.startswith(option)]
                return max(fitting, key=len, default=None)
            yield None

    def next_is_after_space(self, *options: str) -> Reading[str | None]:
        """As `next_is`, past white space, which is read."""
        yield from self.skip_space()
        return (yield from self.next_is(*options))

    def skip(self, *options: str) -> Reading[str | None]:
        """Read past white space and one of `options`, if one of them stands there, and say which."""
        found = yield from self.next_is_after_space(*options)
        self.advance(len(found or ""))
        return found

    def skip_closing(self, *options: str) -> Reading[str | None]:
        """As `skip`, for a mark behind a whole call; where the text ends inside of it, its beginning is read."""
        found = yield from self.skip(*options)
        if found is None and self.ended and any(option.startswith(self.rest) for option in options):
            self.advance(len(self.rest))
        return found

    def require(self, *options: str) -> Reading[str]:
        """As `skip`, but raises `Malformed` where none of them stands there."""
        found = yield from self.skip(*options)
        if found is None:
            raise Malformed(f"`{options[0]}` is missing" if self.rest else _ENDS_EARLY)
        return found

    def word(self) -> Reading[str]:
        """Letters, digits, underscores, dots and signs, up to anything else; possibly none. Raises `Malformed`."""
        while True:
            rest = self.rest
            other = _NO_WORD.search(rest)
            length = other.start() if other else len(rest)
            if length > _LONGEST_LABEL:
                raise Malformed("a word does not end")
            if other or self.ended:
                self.advance(length)
                return rest[:length]
            yield None

    def label(self, stops: Stops) -> Reading[tuple[str, str]]:
        """A short text up to a stop, stripped, and the stop, which is read too."""
        while True:
            place, stop = stops.find(self.rest, ended=self.ended)
            if place > _LONGEST_LABEL:
                raise Malformed("a name does not end")
            if stop is not None:
                text = self.rest[:place].strip()
                self.advance(place + len(stop))
                return text, stop
            yield from self.more()

    def text_to(self, stops: Stops) -> Reading[tuple[str, str]]:
        """The text up to a stop, and the stop, which is not read. Raises `Malformed` where none comes."""
        while True:
            place, stop = stops.find(self.rest, ended=self.ended)
            if stop is not None:
                text = self.rest[:place]
                self.advance(place)
                return text, stop
            yield from self.more()

    def pass_text(self, stops: Stops, event: Callable[[str], OutputEvent], *, trim: bool = True) -> Reading[str | None]:
        """Pass text on as it comes, up to a stop, which is not read, or the end of the text (None).

        With `trim`, white space before a stop is not passed on and not read.
        """
        while True:
            rest = self.rest
            place, stop = stops.find(rest, ended=self.ended)
            finished = stop is None and self.ended
            shown = rest[:place].rstrip() if trim and not finished else rest[:place]
            self.advance(len(shown))
            if shown:
                yield event(shown)
                self.commit()
            if stop is not None or finished:
                return stop
            yield None

    def pass_json(self, event: Callable[[str], OutputEvent]) -> Reading[None]:
        """Pass a JSON value on as it comes. Raises `Malformed` at the place where it stops being one."""
        scanner = JsonScanner()
        while not scanner.complete:
            text, length, problem = scanner.take(self.rest, ended=self.ended)
            self.advance(length)
            if text:
                yield event(text)
                self.commit()
            if problem is not None:
                raise Malformed(problem)
            if not scanner.complete:
                yield from self.more()

    def json_text(self) -> Reading[str]:
        """The text of a JSON value that is read whole. Raises `Malformed`."""
        scanner = JsonScanner()
        pieces = []
        while not scanner.complete:
            text, length, problem = scanner.take(self.rest, ended=self.ended)
            self.advance(length)
            pieces.append(text)
            if problem is not None:
                raise Malformed(problem)
            if not scanner.complete:
                yield from self.more()
        return "".join(pieces)

    def json_value(self) -> Reading[Any]:
        """A JSON value that is read whole. Raises `Malformed`."""
        return parse((yield from self.json_text()))


def parse(text: str) -> Any:
    """The value of a JSON text. Raises `Malformed`."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Malformed("a value is not JSON") from error


def dump(value: Any) -> str:
    """The JSON text of a value, in ASCII where it holds half of a surrogate pair, which UTF-8 cannot write."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or not _SURROGATE.search(text) else json.dumps(value)


def quote(text: str) -> str:
    """`text` as a JSON string."""
    return encode_basestring(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
