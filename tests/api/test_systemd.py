"""What a service manager is told."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmserve.api.systemd import Notifier


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        path = str(Path(folder) / "notify")
        receiver.bind(path if request.param == "file" else f"\0{path}")
        receiver.settimeout(10)
        yield receiver, path if request.param == "file" else f"@{path}"


async def heard(receiver: socket.socket, count: int) -> list[bytes]:
    return [await asyncio.to_thread(receiver.recv, 100) for _ in range(count)]


async def test_ready_alive_and_stopping(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier(environ)
    notifier.ready()
    assert await heard(receiver, 3) == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    notifier.close()
    notifier.stopping()
    while (last := receiver.recv(100)) == b"WATCHDOG=1":
        pass
    assert last == b"STOPPING=1"


@pytest.mark.parametrize(
    "watchdog", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}]
)
def test_no_signs_of_life_are_sent_where_none_are_asked_for(
    manager: tuple[socket.socket, str], watchdog: dict[str, str]
) -> None:
    receiver, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, **watchdog})
    notifier.ready()  # without an event loop: a timer would be an error
    assert receiver.recv(100) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_nobody_listens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready()
    notifier.stopping()
    notifier.close()
