"""Server-sent events as OpenAI streams use them: one `data:` line of JSON per event, and comments that keep a
connection alive. Written by gateway and worker, read by our own client."""

from __future__ import annotations

from llmserve.errors import LlmserveError
from llmserve.openai.json import dump_ascii_json

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def event(value: object) -> bytes:
    """One complete event that carries `value` as JSON. Raises `ValueError` for NaN and infinity."""
    return f"data: {dump_ascii_json(value)}\n\n".encode()


def error_event(error: LlmserveError) -> bytes:
    """The event that tells a client why its stream ends here; no `DONE` follows it."""
    return event(error.body())


def comment(text: str) -> bytes:
    """An event that says `text` to who looks at the stream, and nothing to a program that reads it."""
    return f": {''.join(character for character in text if character.isprintable())}\n\n".encode()


class EventParser:
    """Splits a stream into the data of its events, however the bytes are cut into chunks.

    An event's `data:` lines are joined with line feeds; comments and other fields are dropped. An event that the end
    of the stream cuts off is never returned.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._after_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that `chunk` completes, in order."""
        if self._after_return and chunk:
            # The two bytes of a line end may arrive apart.
            chunk = chunk.removeprefix(b"\n")
            self._after_return = False
        lines = (self._rest + chunk).splitlines(keepends=True)
        self._rest = b""
        if lines and not lines[-1].endswith((b"\n", b"\r")):
            self._rest = lines.pop()
        elif lines:
            self._after_return = lines[-1].endswith(b"\r")
        return [data for line in lines if (data := self._take(line.rstrip(b"\r\n"))) is not None]

    def _take(self, line: bytes) -> bytes | None:
        """Note one line; the event's data when the line is the empty one that ends it."""
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            return None
        if not self._data:
            return None
        data = b"\n".join(self._data)
        self._data = []
        return data
