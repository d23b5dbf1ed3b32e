"""Running the command line inside the test's own process, with a fake gateway and a fake store."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmserve.cli.main import main
from tests.cli.fakes import FakeGateway, FakeStore, installed


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's sockets live: a folder of its own, with a short path as a socket needs."""
    with tempfile.TemporaryDirectory(prefix="llmserve-test-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder) / "llmserve"


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """`invoke("list", "--json", stdin=b"")`: the exit code and what went to stdout and stderr."""

    def run(*arguments: str, stdin: bytes = b"") -> Result:
        capsys.readouterr()
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
            code = main(arguments)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    """A running server, at the address that the settings name."""
    with FakeGateway() as fake:
        monkeypatch.setenv("LLMSERVE_PORT", str(fake.port))
        yield fake


@pytest.fixture
def no_gateway(monkeypatch: pytest.MonkeyPatch) -> int:
    """The settings name a port where nobody listens."""
    with FakeGateway() as fake:
        port = fake.port
    monkeypatch.setenv("LLMSERVE_PORT", str(port))
    return port


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    """A store with the one model `tiny:1b`, alias `tiny`."""
    fake = FakeStore(models={"tiny:1b": installed()})
    monkeypatch.setattr("llmserve.cli.models.open_store", lambda settings: fake)
    monkeypatch.setattr("llmserve.store.adoption.adopt", FakeStore.adopt)
    return fake
