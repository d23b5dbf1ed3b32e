"""llmserve as a process that the clients talk to: from its own environment, which is not that of the clients."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.support import until

ROOT = Path(__file__).parents[2]
KEY = "k-of-the-clients"
MODEL = "smollm2:135m"
EMBEDDER = "minilm:local"
HUB_REPOSITORY = "owner/minilm"
HUB_FILE = "minilm-f16.gguf"
# With it every quantization of the model answers the questions here, and ends its answers.
SYSTEM = "You are a helpful AI assistant."

PYTHON = ROOT / ".venv/bin/python"

_START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Server:
    """`url` and `ollama_url` are its addresses, `log` the file with what it wrote on standard error."""

    url: str
    ollama_url: str
    log: Path

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def starter_file() -> Path:
    """The starter model's GGUF file."""
    home = Path(os.environ["LLMSERVE_TEST_HOME"])
    code = """
import pathlib, sys
from llmserve.store.store import Store
print(Store(pathlib.Path(sys.argv[1])).find(sys.argv[2]).path)"""
    done = subprocess.run([str(PYTHON), "-P", "-c", code, str(home), MODEL], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def run_llmserve(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    argv = [str(PYTHON), "-P", "-m", "llmserve", *arguments]
    subprocess.run(argv, env=_environment(environment), check=True, capture_output=True, timeout=120)


@contextmanager
def running(
    arguments: Sequence[str], ports: tuple[int, int], folder: Path, environment: Mapping[str, str]
) -> Iterator[Server]:
    """llmserve's Python with these arguments, which make it serve on `ports`, until the end of the block."""
    log = folder / "server.log"
    with log.open("wb") as file:
        argv = [str(PYTHON), "-P", *arguments]
        process = subprocess.Popen(argv, env=_environment(environment), stdin=subprocess.PIPE, stderr=file)
    url, ollama_url = (f"http://127.0.0.1:{port}" for port in ports)
    headers = {"x-api-key": KEY}

    def is_ready() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            return httpx2.get(f"{url}/ready", headers=headers, timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    try:
        until(is_ready, seconds=_START_SECONDS)
        yield Server(url, ollama_url, log)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what a setting of llmserve may be in, and with `more`."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("LLMSERVE_")}, **more}
