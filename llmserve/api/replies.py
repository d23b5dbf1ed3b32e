"""What the gateway itself says to a client: answers and errors as JSON, and the id each of them carries."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterable, Sequence

from llmserve.errors import LlmserveError

HeaderList = list[tuple[bytes, bytes]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id a client sent as `X-Request-Id`, if it sent exactly one of the harmless form, else a new one."""
    given = [value for name, value in headers if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0].decode("ascii")
    return f"req-{secrets.token_hex(12)}"


def internal_error(request_id: str) -> LlmserveError:
    """What a client learns of a fault in this program: the id under which the log has the rest."""
    return LlmserveError(f"internal error (request id {request_id})", code="internal_error")


def error_headers(error: LlmserveError) -> HeaderList:
    """The headers that belong to `error`'s status, besides those of its body."""
    headers: HeaderList = []
    if error.retry_after is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def ignored_headers(fields: Sequence[str]) -> HeaderList:
    """What tells a client which of its fields nobody knows."""
    return [(b"x-llmserve-ignored-fields", ", ".join(fields).encode("ascii"))] if fields else []


def header_value(text: str) -> bytes:
    """`text` as the value of a header: one line of printable ASCII, at most 512 bytes; the rest becomes `?`."""
    return "".join(character if " " <= character <= "~" else "?" for character in text[:512]).encode("ascii")


def json_headers(body: bytes) -> HeaderList:
    return [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
