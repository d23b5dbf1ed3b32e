"""Every command and every snippet of the README does what it says, in order, as a reader would try them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import until

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PORT = "11435"
# Run by whoever runs this test.
RUNS_THE_TESTS = "./scripts/test"

pytestmark = pytest.mark.engine


@dataclass(frozen=True)
class Command:
    """A line after `$`, and what the README shows of its output."""

    text: str
    shown: tuple[str, ...]


def commands() -> list[Command]:
    found: list[Command] = []
    for block in re.findall(r"```console\n(.*?)```", README.read_text(), flags=re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            text, *shown = part.strip().split("\n")
            found.append(Command(text, tuple(shown)))
    return found


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@dataclass
class Reader:
    """Somebody who types the README's commands, with a store of their own and another port."""

    environment: dict[str, str]
    port: str
    servers: list[subprocess.Popen[bytes]]

    def type(self, command: str) -> str:
        ran = subprocess.run(
            ["bash", "-c", self._elsewhere(command)],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stderr.decode()}"
        return ran.stdout.decode()

    def start(self, command: str) -> None:
        words = ["bash", "-c", f"exec {self._elsewhere(command)}"]
        self.servers.append(subprocess.Popen(words, cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL))
        until(self._listens, seconds=30)

    def run_python(self, snippet: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", self._elsewhere(snippet)], capture_output=True, timeout=120, check=False
        )
        assert ran.returncode == 0, ran.stderr.decode()
        return ran.stdout.decode()

    def _elsewhere(self, text: str) -> str:
        return text.replace(PORT, self.port)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.port))) == 0


@pytest.fixture
def reader(starter_home: Path, tmp_path: Path) -> Iterator[Reader]:
    home = tmp_path / "home"
    shutil.copytree(starter_home, home, symlinks=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LLMSERVE_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LLMSERVE_HOME": str(home),
        "LLMSERVE_CONFIG": str(tmp_path / "settings.toml"),
        "LLMSERVE_PORT": port,
        "NO_COLOR": "1",
    }
    reader = Reader(environment, port, [])
    # A copy is another file, so the store wants to see its bytes again before it serves them.
    reader.type("llmserve pull smollm2")
    yield reader
    for server in reader.servers:
        server.terminate()
        assert server.wait(timeout=40) == 0


@pytest.mark.timeout(600)
def test_every_command_and_snippet_works(reader: Reader) -> None:
    typed: list[str] = []
    for command in commands():
        typed.append(command.text)
        if command.text == RUNS_THE_TESTS:
            assert os.access(ROOT / RUNS_THE_TESTS, os.X_OK)
        elif command.text.startswith("llmserve serve"):
            reader.start(command.text)
            for snippet in snippets():
                assert reader.run_python(snippet).strip()
        else:
            output = reader.type(command.text)
            if command.text.startswith("./scripts/run"):
                assert output.strip() == "\n".join(command.shown)
    assert len(typed) > 10


def test_the_settings_named_are_settings() -> None:
    from dataclasses import fields

    from llmserve.settings import Settings

    table = README.read_text().split("## Settings")[1].split("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert named
    assert named <= {field.name for field in fields(Settings)}
