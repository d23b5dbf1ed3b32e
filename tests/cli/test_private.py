"""A private server lives exactly as long as the command that needs it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmserve import __version__
from llmserve.cli import private
from llmserve.cli.connection import any_gateway
from llmserve.cli.private import private_gateway
from llmserve.client import Gateway
from llmserve.errors import StartupFailed
from llmserve.settings import Settings, load_settings
from tests.cli.driver import fake_serve_command
from tests.cli.fakes import FakeGateway

REPOSITORY = Path(__file__).parents[2]


class Witness:
    """The reading end of the FIFO that a fake server holds open."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self._descriptor, True)

    def close(self) -> None:
        os.close(self._descriptor)

    def saw_the_end(self) -> bool:
        """Wait until every server that wrote is gone; whether one had been there at all."""
        said = b""
        while piece := os.read(self._descriptor, 100):
            said += piece
        return said.replace(b"\n", b"").isdigit()


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    witness = Witness(tmp_path / "fifo")
    yield witness
    witness.close()


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch, witness: Witness) -> Iterator[list[str]]:
    """A list with the fake server's behaviour, to be changed by the test."""
    behaviour = ["obey"]
    monkeypatch.setattr(
        private, "serve_command", lambda socket: fake_serve_command(socket, str(witness.path), behaviour[0])
    )
    yield behaviour


def leftovers(runtime: Path) -> list[Path]:
    return list((runtime / "gateways").glob("*"))


def test_it_serves_from_a_private_folder_and_leaves_nothing(behave: list[str], witness: Witness, runtime: Path) -> None:
    with private_gateway(Settings()) as gateway:
        assert gateway.health().version == __version__
        (folder,) = leftovers(runtime)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert Path(gateway.address).parent == folder
    assert witness.saw_the_end()
    assert leftovers(runtime) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_it_ends_with_the_block_however_that_ends(
    behave: list[str], witness: Witness, runtime: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error), private_gateway(Settings()):
        raise error
    assert witness.saw_the_end()
    assert leftovers(runtime) == []


def test_one_that_does_not_obey_is_killed(
    behave: list[str], witness: Witness, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave[:] = ["stay"]
    monkeypatch.setattr(private, "_STOP_SECONDS", 0.05)
    with private_gateway(Settings()):
        pass
    assert witness.saw_the_end()
    assert leftovers(runtime) == []


def test_one_that_fails_to_start_says_why(behave: list[str], runtime: Path) -> None:
    behave[:] = ["fail"]
    with pytest.raises(StartupFailed, match="exit code 71") as raised, private_gateway(Settings()):
        pytest.fail("there is no server")
    assert raised.value.hint == "it said: error: there is no room"
    assert leftovers(runtime) == []


@pytest.mark.parametrize("kind", ["a file", "open to others"])
def test_no_private_place_for_the_socket_is_an_error(behave: list[str], runtime: Path, kind: str) -> None:
    folder = runtime / "gateways"
    folder.parent.mkdir()
    if kind == "a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(StartupFailed, match="directory"), private_gateway(Settings()):
        pytest.fail("there is no server")


def test_a_running_server_is_preferred(behave: list[str], gateway: FakeGateway) -> None:
    with any_gateway(load_settings()) as chosen:
        assert chosen.address == f"127.0.0.1:{gateway.port}"


def test_another_program_at_the_address_is_left_alone(
    behave: list[str], witness: Witness, gateway: FakeGateway
) -> None:
    gateway.replies["/health"] = (200, {"hello": "world"})
    with any_gateway(load_settings()) as chosen:
        assert chosen.address.endswith(".sock")
    assert witness.saw_the_end()
    assert gateway.paths() == ["/health"]


def test_the_real_server_starts_and_stops(no_gateway: int, runtime: Path) -> None:
    with any_gateway(load_settings()) as gateway:
        assert isinstance(gateway, Gateway)
        assert gateway.health().version == __version__
        assert gateway.ps() == ()
        assert gateway.models() == []
    assert leftovers(runtime) == []


def start(witness: Witness, *arguments: str) -> subprocess.Popen[bytes]:
    """The command line in a process of its own, when its private server has said the first word."""
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.driver", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "LLMSERVE_TEST_FIFO": str(witness.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stdout.read(4) == b"Once"
    return program


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_no_signal_leaves_an_orphan(
    no_gateway: int, witness: Witness, runtime: Path, number: signal.Signals, code: int
) -> None:
    program = start(witness, "run", "tiny", "hi")
    program.send_signal(number)
    out, err = program.communicate(timeout=30)
    assert program.returncode == code
    assert witness.saw_the_end()
    assert err == b""
    if number != signal.SIGKILL:
        assert out == b"\n"
        assert leftovers(runtime) == []
