"""Runs a server that does not know of its gateway, and ends it with the gateway.

    python -P -m llmserve.engines.keeper COMMAND ...

The standard input is the lifeline: at its end the whole process group is killed, which this process must lead. Its exit
is the command's, the signal that ended it included. Nothing but the standard library is imported, since this process
stays as long as the server does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
    """Run `command` to its end, or to that of the standard input. Returns its exit code."""
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    # What is sent to the group reaches the command too: this process waits for its end.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=_die_with_parent)
    while child.poll() is None:
        ready, _, _ = select.select([sys.stdin, awake], [], [])
        if awake in ready:
            os.read(awake, 4096)
        if sys.stdin in ready and not os.read(sys.stdin.fileno(), 4096):
            os.killpg(0, signal.SIGKILL)
    return child.returncode


def _die_with_parent() -> None:
    """Also where this process is killed and cannot do it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_like(code: int) -> None:
    """End as the command did: by the same signal, or with its exit code."""
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    _end_like(main(sys.argv[1:]))
