"""Probes that behave as badly as native code can; they run in a probe child only."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

from llmserve.hardware.failure import ProbeFailed


def honest() -> dict[str, object]:
    return {"answer": 42}


def talkative() -> str:
    """Writes to stdout as drivers do, by the C library and by Python."""
    os.write(1, b"driver banner\n")
    print("another banner", flush=True)
    return "still an answer"


def finds_nothing() -> None:
    raise ProbeFailed("there is no such device")


def raises() -> None:
    raise OSError("the driver is in a mood")


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def vanish() -> None:
    """Ends with success and without a word."""
    os._exit(0)


def unprintable() -> object:
    return object()


def flood() -> str:
    return "x" * (5 * 2**20)


def noisy() -> str:
    """Writes more to stderr than anybody keeps."""
    os.write(2, b"noise\n" * 200_000)
    return "heard"


def hang_with_grandchild() -> None:
    """Never ends; neither does the process it starts. Both hold $HOSTILE_FIFO open."""
    descriptor = os.open(os.environ["HOSTILE_FIFO"], os.O_WRONLY)
    subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], pass_fds=[descriptor])
    while True:
        signal.pause()


def hang_deaf() -> None:
    """Ignores every signal that can be ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        time.sleep(60)


def environment() -> dict[str, str]:
    return dict(os.environ)
