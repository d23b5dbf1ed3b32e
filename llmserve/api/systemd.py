"""Telling systemd how the service is, as sd_notify(3) describes: a datagram with `NAME=value` lines.

Without `NOTIFY_SOCKET` in the environment nothing is told, so nothing here needs systemd.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Tells of one process. Methods neither wait nor raise: a service manager that is gone is no reason to fail."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watchdog_seconds = _watchdog_seconds(environ)
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """The service answers. From now on systemd hears twice in each period that the event loop turns."""
        self._tell("READY=1")
        if self._watchdog_seconds is not None:
            self._alive()

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _alive(self) -> None:
        self._tell("WATCHDOG=1")
        self._timer = asyncio.get_running_loop().call_later((self._watchdog_seconds or 0) / 2, self._alive)

    def _tell(self, state: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        # "@" stands for the zero byte of a socket without a file.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode("ascii"), address)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """The period in which this process must show a sign of life, None if it need not."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) > 0 else None
