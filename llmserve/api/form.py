"""Forms with a file in them (RFC 7578, multipart/form-data), read piece by piece."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from llmserve.errors import InvalidRequest, UnsupportedMediaType

MAX_FIELDS = 32
MAX_FIELD_BYTES = 1024
MAX_FILENAME_CHARACTERS = 255
# Written at once: each is a way to another thread and back.
_WRITE_BYTES = 1024 * 1024
_MALFORMED = "the body is not a well-formed form"

Write = Callable[[bytes], Awaitable[object]]


@dataclass(slots=True)
class _Part:
    """One part of a form; `filename` is None for a plain field."""

    head: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    filename: str | None = None
    text: bytes = b""


class UploadForm:
    """The form in `request`, whose file `file` goes to `write` as it comes. Call `read` once.

    Afterwards `fields` are the plain fields, `a[b]` being `b` within `a`, and `filename` is the file's own name for
    itself, without folders and control characters.
    """

    def __init__(self, request: Request, write: Write) -> None:
        self.fields: dict[str, Any] = {}
        self.filename: str | None = None
        self._request = request
        self._write = write
        self._part = _Part()
        self._parts = 0
        self._head_name = self._head_value = b""
        self._file = bytearray()
        self._ended = False

    async def read(self) -> None:
        """Raises `InvalidRequest` where the form is malformed or without a file, and what `write` raises."""
        _, options = parse_options_header(self._request.headers.get("content-type"))
        boundary = options.get(b"boundary")
        if not boundary:
            raise UnsupportedMediaType("the Content-Type must be multipart/form-data with a boundary")
        try:
            parser = MultipartParser(boundary, self._callbacks())
            async for piece in self._request.stream():
                parser.write(piece)
                if len(self._file) >= _WRITE_BYTES:
                    await self._flush()
            parser.finalize()
        except FormParserError as error:
            raise InvalidRequest(_MALFORMED) from error
        if not self._ended:
            raise InvalidRequest(f"{_MALFORMED}: it breaks off")
        if self.filename is None:
            raise InvalidRequest("`file` is required", param="file", hint="curl sends it with -F file=@requests.jsonl")
        await self._flush()

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_to_head_name,
            "on_header_value": self._add_to_head_value,
            "on_header_end": self._end_head_line,
            "on_headers_finished": self._end_head,
            "on_part_data": self._add,
            "on_part_end": self._end,
            "on_end": self._end_form,
        }

    async def _flush(self) -> None:
        if self._file:
            content, self._file = bytes(self._file), bytearray()
            await self._write(content)

    # --- called by the parser, which bounds the heads ---

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {MAX_FIELDS} fields")
        self._part = _Part()

    def _add_to_head_name(self, data: bytes, start: int, end: int) -> None:
        self._head_name += data[start:end]

    def _add_to_head_value(self, data: bytes, start: int, end: int) -> None:
        self._head_value += data[start:end]

    def _end_head_line(self) -> None:
        self._part.head[self._head_name.lower()] = self._head_value
        self._head_name = self._head_value = b""

    def _end_head(self) -> None:
        part = self._part
        _, options = parse_options_header(part.head.get(b"content-disposition"))
        if not (name := options.get(b"name")):
            raise InvalidRequest(f"{_MALFORMED}: a field has no name")
        part.name = _text(name, "the name of a field")
        if b"filename" not in options:
            return
        if part.name != "file" or self.filename is not None:
            raise InvalidRequest("the form must have one file, in the field `file`", param="file")
        part.filename = self.filename = _filename(_text(options[b"filename"], "the name of the file"))

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._part.filename is not None:
            self._file += data[start:end]
            return
        self._part.text += data[start:end]
        if len(self._part.text) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"a field of the form is longer than {MAX_FIELD_BYTES} bytes")

    def _end(self) -> None:
        part = self._part
        if part.filename is not None:
            return
        outer, bracket, inner = part.name.partition("[")
        fields = self.fields
        if bracket and inner.endswith("]"):
            fields = self.fields.setdefault(outer, {})
            outer = inner[:-1]
        if not isinstance(fields, dict) or outer in fields:
            raise InvalidRequest("a field of the form is there twice", param=None)
        fields[outer] = _value(_text(part.text, "a field of the form"))

    def _end_form(self) -> None:
        self._ended = True


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what} is not UTF-8") from error


def _value(text: str) -> str | int:
    """A form knows no numbers: digits mean one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else text


def _filename(name: str) -> str:
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in last if character.isprintable())[:MAX_FILENAME_CHARACTERS] or "upload"
