"""Messages between the worker and its preparer: JSON objects, each behind its length in four bytes."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

_LENGTH = struct.Struct(">I")
# Above the largest request body with everything in it escaped, and above any vocabulary.
_MOST_BYTES = 128 * 1024 * 1024


class ChannelBroken(Exception):
    """The other side is gone, or what it sent is no message."""


class Channel:
    """One end of a stream socket. Used by one thread at a time; it owns the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, message: Mapping[str, Any], seconds: float | None = None) -> None:
        """Raises `ChannelBroken`, or `TimeoutError` after `seconds` (None: wait as long as it takes)."""
        body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except TimeoutError:
            raise
        except OSError as error:
            raise ChannelBroken from error

    def receive(self, seconds: float | None = None) -> dict[str, Any] | None:
        """The next message; None where the other side has closed. Raises as `send` does."""
        deadline = None if seconds is None else time.monotonic() + seconds
        head = self._read(_LENGTH.size, deadline)
        if not head:
            return None
        if len(head) < _LENGTH.size:
            raise ChannelBroken
        (length,) = _LENGTH.unpack(head)
        if length > _MOST_BYTES:
            raise ChannelBroken
        body = self._read(length, deadline)
        try:
            message = json.loads(body)
        except ValueError as error:
            raise ChannelBroken from error
        if not isinstance(message, dict):
            raise ChannelBroken
        return message

    def close(self) -> None:
        """May be called twice, and from another thread, whose `send` or `receive` then ends with an error."""
        with suppress(OSError):  # the other side may have been first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, length: int, deadline: float | None) -> bytes:
        """`length` bytes, fewer where the other side has closed."""
        pieces: list[bytes] = []
        missing = length
        while missing:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
            else:
                self._socket.settimeout(None)
            try:
                piece = self._socket.recv(min(missing, 1 << 20))
            except TimeoutError:
                raise
            except OSError as error:
                raise ChannelBroken from error
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)
