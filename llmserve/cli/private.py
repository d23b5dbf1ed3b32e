"""A gateway of our own, for as long as one command needs it: it dies with the command, however that ends.

The child's standard input is a pipe that only this process holds. When it is closed, by us or because we were killed,
the child reads end of file and stops; `stop_when_input_ends` is the child's half.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from llmserve.errors import StartupFailed, Unavailable
from llmserve.settings import Settings, runtime_directory

if TYPE_CHECKING:
    from llmserve.client import Gateway

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02


@contextmanager
def private_gateway(settings: Settings) -> Iterator[Gateway]:
    """Start a gateway on a socket in a directory of its own (mode 0700), and stop it at the end of the block.

    Raises `StartupFailed` when there is no place for the socket, and with what the child said when it does not become
    healthy.
    """
    from llmserve.client import Gateway
    from llmserve.fleet.sockets import SocketDirectory

    with _termination_unwinds(), closing(SocketDirectory(runtime_directory() / "gateways")) as sockets:
        path = sockets.new_path()
        log_path = path.with_suffix(".log")
        with log_path.open("wb") as log:
            process = _start(path, log.fileno())
        try:
            with Gateway.unix(path, api_key=settings.api_key) as gateway:
                _wait_until_healthy(gateway, process, path, log_path)
                yield gateway
        finally:
            _stop(process)


def stop_when_input_ends() -> None:
    """End this process, as SIGTERM does, once its standard input ends; at once if it does not obey in time.

    Returns immediately: a thread waits.
    """

    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_STOP_SECONDS)
        # Nobody is left to wait for a graceful end, and the workers end with this process.
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def serve_command(path: Path) -> list[str]:
    """The command line of the child. `-P`: it imports llmserve as installed, not what lies in the current folder."""
    return [sys.executable, "-P", "-m", "llmserve", "serve", "--uds", str(path), "--until-input-ends"]


def _start(path: Path, log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        serve_command(path),
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        # Ctrl-C in the terminal is for the answer, not for the server that writes it.
        start_new_session=True,
    )


def _wait_until_healthy(gateway: Gateway, process: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if _accepts(path):
            with suppress(Unavailable):
                gateway.health()
                return
        if process.poll() is not None:
            raise StartupFailed(
                f"the server for this answer ended before it was ready (exit code {process.returncode})",
                hint=_last_words(log),
            )
        time.sleep(_POLL_SECONDS)
    raise StartupFailed(
        f"the server for this answer was not ready after {_START_SECONDS:g} seconds", hint=_last_words(log)
    )


def _accepts(path: Path) -> bool:
    """Whether somebody listens on the Unix socket `path` (cheaper to ask over and over than with a request)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        return connection.connect_ex(str(path)) == 0


def _last_words(log: Path) -> str | None:
    """The end of what the child wrote, for the person who has to find out why."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    return f"it said: {text[-2000:]}" if text else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # Too slow, or a second Ctrl-C: either way it does not stay behind.
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def _termination_unwinds() -> Iterator[None]:
    """Make SIGTERM and SIGHUP leave the block through its clean-up instead of ending the process on the spot."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
