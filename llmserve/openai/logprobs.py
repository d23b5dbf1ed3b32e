"""Log probabilities of tokens: as the engine hands them over, and in OpenAI's two shapes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# What OpenAI writes for a token that cannot occur, because JSON has no infinity.
LEAST_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have stood at a place; the fields are as in `TokenLogprob`."""

    token: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of a text, the natural logarithm of its probability, and the likeliest tokens at its place.

    `token` is `bytes` as text, where an incomplete character is U+FFFD. `top` is sorted, the likeliest first, and need
    not hold the token itself. `logprob` is None for the first token of a prompt, which follows nothing.
    """

    token: str
    bytes: bytes
    logprob: float | None
    top: tuple[Alternative, ...] = ()


class TextOffsets:
    """Where the tokens of one text start, in characters, however characters are split between tokens."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._end = 0

    def place(self, piece: bytes) -> int:
        """Where the next token, which is `piece`, starts."""
        start = self._end
        self._end += len(self._decoder.decode(piece))
        return start


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """`tokens` as the `logprobs` of a chat choice."""
    content = [{**_entry(token), "top_logprobs": [_entry(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprob], offsets: TextOffsets) -> dict[str, Any]:
    """`tokens` as the `logprobs` of a text completion's choice, going on where `offsets` stands.

    The alternatives of a token include the token itself, as OpenAI's do.
    """
    return {
        "tokens": [_name(token) for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [_by_name(token) for token in tokens],
        "text_offset": [offsets.place(token.bytes) for token in tokens],
    }


def _entry(token: TokenLogprob | Alternative) -> dict[str, Any]:
    return {"token": token.token, "logprob": _finite(token.logprob), "bytes": list(token.bytes)}


def _by_name(token: TokenLogprob) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    alternatives = {_name(other): _number(other.logprob) for other in token.top}
    return {**alternatives, _name(token): _number(token.logprob)}


def _name(token: TokenLogprob | Alternative) -> str:
    """The token's text; a part of a character as its bytes, so that two such tokens do not share a name."""
    if "\ufffd" not in token.token:
        return token.token
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else _number(logprob)


def _number(logprob: float) -> float:
    # Not `max`: that would let NaN through.
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB
