"""Ending a download from another thread, also while it waits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2


class Stopped(Exception):
    """The pull ended meanwhile: another file failed, or its caller left."""


class Stop:
    """Tells the threads of a download to end. Safe for many threads; once set, it stays so."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()

    def set(self) -> None:
        self._event.set()
        with self._lock:
            for connection in self._connections:
                # Wakes who reads from it, as closing it would not. Not TLS's own `shutdown`, whose reader would fail.
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise `Stopped` once it is set."""
        if self._event.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Let the time pass. Raises `Stopped` as soon as it is set."""
        if self._event.wait(seconds):
            raise Stopped

    @contextmanager
    def ending(self, response: httpx2.Response) -> Iterator[None]:
        """While the block reads the response, setting ends its connection, and so the reading. Raises `Stopped`."""
        stream = response.extensions.get("network_stream")
        connection = None if stream is None else stream.get_extra_info("socket")
        if connection is None:
            yield
            return
        with self._lock:
            self._connections.add(connection)
        try:
            # Set before the connection was among them, it left it alone.
            self.check()
            yield
        finally:
            with self._lock:
                self._connections.discard(connection)
