"""Completion by the tab key: what is offered, and that a real shell takes it."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmserve.cli.completion import SHELLS
from llmserve.cli.main import COMPLETION_VARIABLE
from llmserve.store.manifests import Manifests
from tests.cli.conftest import Invoke

# What completing a model's name must not wait for.
HEAVY = ("pydantic", "httpx2", "starlette", "numpy", "llama_cpp", "rich", "prompt_toolkit", "psutil", "huggingface_hub")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with three models, of which only the names of the files count."""
    for name in ("smollm2/135m", "mine/v1", "hf/owner%2Frepo:file.gguf"):
        manifest = tmp_path / "home" / "manifests" / f"{name}.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_text("{")
    monkeypatch.setenv("LLMSERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLMSERVE_CONFIG", str(tmp_path / "settings.toml"))
    return tmp_path / "home"


def offered(line: str) -> list[str]:
    """What a shell is offered for `line`, with its kind where it is no plain word."""
    environment = {**os.environ, COMPLETION_VARIABLE: "bash_complete", "COMP_LINE": line}
    argv = [sys.executable, "-P", "-m", "llmserve"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return [item.removeprefix("plain,") for item in done.stdout.splitlines() if item]


def test_the_store_tells_names_without_reading(home: Path) -> None:
    names = Manifests(home / "manifests", home / "scratch").names()
    assert names == {"smollm2:135m", "mine:v1", "hf:owner/repo:file.gguf"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llmserve sho", ["show"]),
        ("llmserve connect open", ["openai", "open-webui"]),
        ("llmserve show ", ["hf:owner/repo:file.gguf", "mine:v1", "smollm2", "smollm2:135m"]),
        ("llmserve show smollm2:1", ["smollm2:135m"]),
        ('llmserve rm mine:v1 "smollm2:', ["smollm2:135m"]),
        ("llmserve connect openai --model=mi", ["mine:v1"]),
        ("llmserve run smollm2:1", ["smollm2:1.7b", "smollm2:135m"]),
        ("llmserve serve --kv-type q", ["q8_0", "q4_0"]),
        ("llmserve show ./some", ["file,./some"]),
        ("llmserve nosuch x", []),
        ("llmserve run mine:v1 what", []),
    ],
)
def test_what_is_offered(home: Path, line: str, expected: list[str]) -> None:
    assert offered(line) == expected


def test_a_person_whose_settings_are_broken_gets_no_error(home: Path) -> None:
    (home / "models.toml").write_text("not TOML")
    assert offered("llmserve show m") == []


def test_nothing_heavy_is_imported(home: Path) -> None:
    code = (
        "import sys; from llmserve.cli.main import main\n"
        "try: main([])\n"
        f"finally: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    environment = {**os.environ, COMPLETION_VARIABLE: "bash_complete", "COMP_LINE": "llmserve show m"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("plain,mine:v1\n", "[]\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_for_every_shell(invoke: Invoke, shell: str) -> None:
    result = invoke("completion", shell)
    assert (result.code, result.err) == (0, "")
    assert f"{COMPLETION_VARIABLE}={shell}_complete" in result.out
    assert "%(" not in result.out


class Shell:
    """Bash at a terminal of its own, with completion."""

    def __init__(self, bash: str, folder: Path) -> None:
        program = folder / "llmserve"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m llmserve "$@"\n')
        program.chmod(0o755)
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PS1": "ready> ", "TERM": "dumb", "HISTFILE": ""}
        environment.pop(COMPLETION_VARIABLE, None)
        self._terminal, inside = pty.openpty()
        argv = [bash, "--norc", "--noprofile", "-i"]
        self._bash = subprocess.Popen(
            argv, stdin=inside, stdout=inside, stderr=inside, env=environment, cwd=folder, start_new_session=True
        )
        os.close(inside)
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        """Return once the terminal has shown `pattern` behind what was waited for before."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self._shown)):
            assert time.monotonic() < deadline, self._shown
            if select.select([self._terminal], [], [], 0.1)[0]:
                self._shown += os.read(self._terminal, 4096).decode(errors="replace")
        self._shown = self._shown[found.end() :]

    def close(self) -> None:
        self._bash.kill()
        self._bash.wait()
        os.close(self._terminal)


@pytest.fixture
def shell(home: Path, tmp_path: Path) -> Iterator[Shell]:
    bash = shutil.which("bash")
    if bash is None or subprocess.run([bash, "-c", "((BASH_VERSINFO[0] >= 5))"], check=False).returncode:
        pytest.skip("Bash 5 is not here")
    running = Shell(bash, tmp_path)
    yield running
    running.close()


def test_bash_completes_over_colons(shell: Shell) -> None:
    shell.wait_for("ready> ")
    shell.type('eval "$(llmserve completion bash)"; echo "script is read"\n')
    shell.wait_for(r"\nscript is read\r\nready> ")
    # Each is completed, changed into a harmless line and run, so that what Bash has is what is seen.
    for typed, whole in [
        ("llmserve sho\t", "llmserve show"),
        ("llmserve show mi\t", "llmserve show mine:v1"),
        ("llmserve show smollm2:1\t", "llmserve show smollm2:135m"),
        ('llmserve show "smollm2:1\t', "llmserve show smollm2:135m"),
        ("llmserve connect openai --model=smollm2:1\t", "llmserve connect openai --model=smollm2:135m"),
        ("llmserve show hf:owner/repo:\t", "llmserve show hf:owner/repo:file.gguf"),
    ]:
        shell.type(f"{typed}\x01echo is: \x05\n")
        shell.wait_for(rf"\nis: {re.escape(whole)} ?\r\nready> ")
