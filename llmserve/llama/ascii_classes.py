"""`\\d` and `\\w` of a regular expression, as JSON schema and other engines mean them: of ASCII."""

from __future__ import annotations

import re

_CLASSES = {r"\d": "[0-9]", r"\D": "[^0-9]", r"\w": "[0-9A-Za-z_]", r"\W": "[^0-9A-Za-z_]"}
# A bracket that stands first in a class is one of its characters.
_PIECE = re.compile(r"\\.?|\[\^?\]?|[^\\\[]", re.DOTALL)


def ascii_classes(pattern: str) -> str:
    """`pattern` with the classes of ASCII characters in their place, which llguidance takes to be those of Unicode.

    A class may stand inside of a class, so they are written the same everywhere. One behind the dash of a range is an
    error, and left for llguidance to find.
    """
    pieces: list[str] = []
    depth = 0
    for match in _PIECE.finditer(pattern):
        piece = match[0]
        if piece[0] == "[":
            depth += 1
        elif piece == "]" and depth:
            depth -= 1
        elif piece in _CLASSES and not (depth and _is_range(pieces)):
            piece = _CLASSES[piece]
        pieces.append(piece)
    return "".join(pieces)


def _is_range(pieces: list[str]) -> bool:
    """Whether the last piece is the dash of a range: one that does not stand first in its class."""
    return pieces[-1] == "-" and pieces[-2][0] != "["
