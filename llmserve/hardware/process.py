"""Run a program that may hang, crash or flood, and come back in time whatever it does."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from llmserve.hardware.failure import ProbeFailed

MAX_STDOUT_BYTES = 4 * 2**20
KEPT_STDERR_BYTES = 4096
REAP_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Captured:
    """What a program that ended by itself left: its exit status, all of stdout and the tail of stderr."""

    status: int
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        """The last line of stderr that says something, or nothing."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else ""


def capture(argv: Sequence[str], *, subject: str, timeout: float, environment: Mapping[str, str]) -> Captured:
    """Run `argv` in a process group of its own and return what it wrote. Blocks for `timeout` seconds at most.

    Raises `ProbeFailed`, with `subject` as the sentence's subject, when the program is missing, dies of a signal,
    writes more than `MAX_STDOUT_BYTES`, or has not ended (or something it started still holds its output) in time;
    in the last two cases the whole group is killed.
    """
    deadline = time.monotonic() + timeout
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
    except FileNotFoundError:
        raise ProbeFailed(f"{subject} is not installed") from None
    except OSError as error:
        raise ProbeFailed(f"{subject} cannot be run: {error.strerror}") from error
    try:
        stdout, stderr = _drain(process, deadline, subject)
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise ProbeFailed(f"{subject} did not answer within {timeout:g} s") from None
    finally:
        _end(process)
    if status < 0:
        raise ProbeFailed(f"{subject} was killed by {_signal_name(-status)}", signal=-status)
    return Captured(status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def _drain(process: subprocess.Popen[bytes], deadline: float, subject: str) -> tuple[bytes, bytes]:
    """Read both pipes to their end. Raises `TimeoutError` at the deadline, `ProbeFailed` when stdout floods."""
    stdout, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(_pipe(process.stdout), selectors.EVENT_READ, stdout)
        selector.register(_pipe(process.stderr), selectors.EVENT_READ, stderr)
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            for key, _ in selector.select(remaining):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                key.data.extend(chunk)
            if len(stdout) > MAX_STDOUT_BYTES:
                raise ProbeFailed(f"{subject} wrote more than {MAX_STDOUT_BYTES // 2**20} MiB")
            del stderr[:-KEPT_STDERR_BYTES]
    return bytes(stdout), bytes(stderr)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the process was started without a pipe")
    return stream


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the group unless its leader has ended and been reaped, and close the pipes."""
    if process.returncode is None:
        # The leader is not reaped yet, so its number cannot belong to anybody else.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        # Stuck in the kernel (a wedged driver), it ignores even SIGKILL: then it is left behind.
        with suppress(subprocess.TimeoutExpired):
            process.wait(REAP_SECONDS)
    _pipe(process.stdout).close()
    _pipe(process.stderr).close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
