"""Follows one JSON value through text that arrives in pieces: passes it on, and says where it ends or breaks."""

from __future__ import annotations

import re
from typing import Literal

from llmserve.llama.output.events import Malformed

# Deeper values are refused: whoever reads the call parses it with a parser that may recurse.
MAX_DEPTH = 64

_SPACE = re.compile(r"[ \t\n\r]+")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_OPEN_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_WORD = re.compile(r"[-+.0-9A-Za-z_]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
# Python's spelling, which models that saw much Python fall into.
_WORDS = {
    "true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"
}  # fmt: skip

_Expect = Literal["value", "key or end", "key", "colon", "comma or end", "value or end"]


class JsonScanner:
    """One JSON value (RFC 8259), read as its text arrives.

    `take` gives back what may be passed on: the text as it is, except that line breaks and other control characters
    inside of strings are escaped and Python's True, False and None spelt as JSON's.
    """

    def __init__(self) -> None:
        self.complete = False
        self._expect: _Expect = "value"
        self._closers: list[str] = []
        self._in_string = False

    def take(self, text: str, *, ended: bool) -> tuple[str, int, str | None]:
        """Read on in `text`, which goes on where the last call stopped.

        Returns the text to pass on, how many characters of `text` are done with, and what is wrong at that place
        (None: nothing). What cannot be judged before more arrives is not done with; `ended` says that no more will.
        """
        out: list[str] = []
        at = 0
        try:
            while at < len(text) and not self.complete:
                piece, length = self._string(text, at) if self._in_string else self._token(text, at, ended)
                if not length:
                    break
                out.append(piece)
                at += length
        except Malformed as problem:
            return "".join(out), at, str(problem)
        return "".join(out), at, None

    def _string(self, text: str, at: int) -> tuple[str, int]:
        if found := _PLAIN.match(text, at):
            return found[0], len(found[0])
        character = text[at]
        if character == '"':
            self._in_string = False
            self._after_string()
            return character, 1
        if character != "\\":
            return f"\\u{ord(character):04x}" if character != "\n" else "\\n", 1
        if found := _ESCAPE.match(text, at):
            return found[0], len(found[0])
        if _OPEN_ESCAPE.fullmatch(text, at):
            return "", 0
        raise Malformed("a string has an escape that JSON does not know")

    def _after_string(self) -> None:
        if self._expect in ("key", "key or end"):
            self._expect = "colon"
        else:
            self._after_value()

    def _after_value(self) -> None:
        self._expect = "comma or end"
        self.complete = not self._closers

    def _token(self, text: str, at: int, ended: bool) -> tuple[str, int]:
        if found := _SPACE.match(text, at):
            return found[0], len(found[0])
        character = text[at]
        if character in "]}":
            self._close(character)
        elif character == ",":
            self._require("comma or end")
            self._expect = "key" if self._closers[-1] == "}" else "value"
        elif character == ":":
            self._require("colon")
            self._expect = "value"
        elif character == '"':
            self._require("value", "value or end", "key", "key or end")
            self._in_string = True
        elif character in "{[":
            self._open(character)
        else:
            return self._word(text, at, ended)
        return character, 1

    def _open(self, character: str) -> None:
        self._require("value", "value or end")
        if len(self._closers) == MAX_DEPTH:
            raise Malformed(f"the value is nested more than {MAX_DEPTH} deep")
        self._closers.append("}" if character == "{" else "]")
        self._expect = "key or end" if character == "{" else "value or end"

    def _close(self, character: str) -> None:
        self._require("comma or end", "key or end", "value or end")
        if not self._closers or self._closers[-1] != character:
            raise Malformed(f"`{character}` closes nothing")
        self._closers.pop()
        self._after_value()

    def _word(self, text: str, at: int, ended: bool) -> tuple[str, int]:
        self._require("value", "value or end")
        found = _WORD.match(text, at)
        if found is None:
            raise Malformed("a value is missing")
        word = found[0]
        if found.end() == len(text) and not ended:
            return "", 0
        if word not in _WORDS and not _NUMBER.fullmatch(word):
            raise Malformed("a word is no value")
        self._after_value()
        return _WORDS.get(word, word), len(word)

    def _require(self, *states: _Expect) -> None:
        if self._expect not in states:
            raise Malformed(f"a {self._expect} is missing")
