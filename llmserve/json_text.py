"""Dataclasses of plain values as JSON, and back."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from msgspec.json import Decoder

T = TypeVar("T")


class InvalidJson(ValueError):
    """A text that describes no value of the type. `path`: the field that is wrong, "" for the text as a whole."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"`{path}`: {reason}" if path else reason)
        self.path = path


@cache  # a store reads hundreds of manifests
def _decoder(kind: type[Any]) -> Decoder[Any]:
    from msgspec.json import Decoder

    return Decoder(kind)


def _invalid(message: str) -> InvalidJson:
    """From msgspec's words: "Expected `int`, got `str` - at `$.memory.total`"."""
    reason, _, path = message.partition(" - at `$")
    missing = reason.partition("missing required field `")[2]
    if missing:
        reason, path = "it is missing", f"{path.rstrip('`')}.{missing.rstrip('`')}"
    return InvalidJson(reason, path.strip(".`"))


def to_json(value: object, *, indent: int | None = None) -> str:
    """The JSON text of a dataclass of plain values (or a tuple of them)."""
    from msgspec import json

    text = json.encode(value)
    return (json.format(text, indent=indent) if indent else text).decode()


def from_json(kind: type[T], text: str | bytes) -> T:
    """The value of type `kind` that `text` describes. Raises `InvalidJson`, which names the field."""
    from msgspec import MsgspecError

    wanted: Any = kind  # mypy does not take every class for hashable
    try:
        result: T = _decoder(wanted).decode(text)
    except (MsgspecError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from None
    except RecursionError:
        raise InvalidJson("it is nested too deeply") from None
    return result
