"""Ctrl-C: ends one answer, but never the chat; with a server that stops in mid-sentence."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.fakes import HOLD, FakeGateway, answer, delta
from tests.support import until

REPOSITORY = Path(__file__).parents[2]


def driver(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.cli.driver", *arguments]


def interrupt(program: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C while the program waits for the server, as people do.

    Python looks for signals between two instructions, and a system call is ended by one that comes later: what comes
    between the look and the call waits for the next token.
    """
    until(lambda: psutil.Process(program.pid).status() == psutil.STATUS_SLEEPING)
    program.send_signal(signal.SIGINT)


def test_an_answer_ends_quietly_with_130(gateway: FakeGateway) -> None:
    gateway.script = [[delta("Once upon"), HOLD]]
    program = subprocess.Popen(
        driver("run", "tiny", "hi"),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stdout.read(9) == b"Once upon"
    interrupt(program)
    out, err = program.communicate(timeout=30)
    assert (program.returncode, out, err) == (130, b"\n", b"")
    assert gateway.cancelled.wait(10)


class Typist:
    """Someone at a terminal: reads until a text appears, and types."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.seen = ""
        self.program = subprocess.Popen(
            driver(*arguments),
            cwd=REPOSITORY,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)

    def wait_for(self, text: str) -> None:
        """Read until `text` has come, after everything that was waited for before."""
        while text not in self.seen:
            piece = os.read(self._master, 4096)
            assert piece, self.seen
            self.seen += piece.decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self._master)


@pytest.fixture
def typist(gateway: FakeGateway) -> Iterator[Typist]:
    typist = Typist("run", "tiny")
    yield typist
    typist.close()


def test_a_chat_survives(typist: Typist, gateway: FakeGateway) -> None:
    gateway.script = [[delta("Once upon"), HOLD], answer("Good", "bye.")]
    typist.wait_for(">>>")
    typist.type("tell me a story\r")
    typist.wait_for("Once upon")
    interrupt(typist.program)
    typist.wait_for("(stopped)")
    assert gateway.cancelled.wait(10)
    typist.wait_for(">>>")
    typist.type("enough\r")
    typist.wait_for("Goodbye.")
    typist.wait_for(">>>")
    typist.type("/bye\r")
    assert typist.program.wait(30) == 0
    assert [message["content"] for message in gateway.chats[1]["messages"]] == [
        "tell me a story",
        "Once upon",
        "enough",
    ]


def test_ctrl_d_leaves(typist: Typist) -> None:
    typist.wait_for(">>>")
    typist.type("\x03")
    typist.wait_for("Ctrl-D or /bye leaves)")
    typist.wait_for(">>>")
    typist.type("\x04")
    assert typist.program.wait(30) == 0
