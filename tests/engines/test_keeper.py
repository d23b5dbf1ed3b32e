"""The process that ends a server with its gateway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import psutil  # type: ignore[import-untyped]
import pytest

from tests.support import runs, until

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
# A server with a process of its own that stays when it is killed.
NEST = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).wait()"


class Kept:
    def __init__(self, code: str) -> None:
        argv = [sys.executable, "-P", "-m", "llmserve.engines.keeper", sys.executable, "-c", code]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )

    def wait_until_up(self) -> list[psutil.Process]:
        """Everything that runs, once the innermost says so: on standard error, where its output goes."""
        assert self.process.stderr is not None
        assert self.process.stderr.readline() == b"up\n"
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait()


@pytest.fixture
def keep() -> Iterator[list[Kept]]:
    kept: list[Kept] = []
    yield kept
    for each in kept:
        each.end()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(map(runs, processes))


@pytest.mark.parametrize(("code", "status"), [("pass", 0), ("raise SystemExit(3)", 3)])
def test_its_exit_is_the_commands(keep: list[Kept], code: str, status: int) -> None:
    keep.append(Kept(code))
    assert keep[0].process.wait(timeout=20) == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_so_is_the_signal_that_ended_it(keep: list[Kept], number: signal.Signals) -> None:
    keep.append(Kept(SLEEP))
    (child,) = keep[0].wait_until_up()
    child.send_signal(number)
    assert keep[0].process.wait(timeout=20) == -number


def test_the_end_of_its_input_ends_everything(keep: list[Kept]) -> None:
    keep.append(Kept(NEST))
    children = keep[0].wait_until_up()
    assert len(children) == 2
    assert keep[0].process.stdin is not None
    keep[0].process.stdin.close()
    until(lambda: gone(children))


def test_a_signal_to_the_group_is_the_commands_to_act_on(keep: list[Kept]) -> None:
    keep.append(Kept(SLEEP))
    keep[0].wait_until_up()
    os.killpg(keep[0].process.pid, signal.SIGTERM)
    assert keep[0].process.wait(timeout=20) == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_without_it_the_command_ends_too(keep: list[Kept]) -> None:
    keep.append(Kept(SLEEP))
    children = keep[0].wait_until_up()
    keep[0].process.kill()
    until(lambda: gone(children))
