"""The servers that are compared, each started for one measurement and stopped after it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens and what it calls the model."""

    name: str
    port: int
    model: str


@contextlib.contextmanager
def llmserve(model: Path, home: Path, parallel: int, *, prefix_disk: bool = False) -> Iterator[Server]:
    """`llmserve serve` as a user starts it, with a store of its own that knows the file by path.

    Without `prefix_disk` an earlier repetition does not help a later one.
    """
    port = free_port()
    environment = {**os.environ, "LLMSERVE_HOME": str(home), "LLMSERVE_CONFIG": str(home / "none.toml")}
    if not prefix_disk:
        environment["LLMSERVE_PREFIX_DISK"] = "0"
    argv = [sys.executable, "-P", "-m", "llmserve", "serve", "--port", str(port), "--parallel", str(parallel)]
    with running([*argv, str(model)], environment, f"http://127.0.0.1:{port}/ready", home / "llmserve.log"):
        yield Server("llmserve", port, _served_name(port))


@contextlib.contextmanager
def llama_server(
    binary: Path, model: Path, parallel: int, threads: int, folder: Path, *, slot_tokens: int = 2048
) -> Iterator[Server]:
    """llama-server with as many slots as clients, each with `slot_tokens` tokens: its own best case for each load."""
    port = free_port()
    argv = [str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--no-webui"]
    argv += ["-np", str(parallel), "-c", str(slot_tokens * parallel), "-t", str(threads)]
    with running(argv, dict(os.environ), f"http://127.0.0.1:{port}/health", folder / "llama-server.log"):
        yield Server("llama-server", port, model.stem)


@contextlib.contextmanager
def running(argv: list[str], environment: dict[str, str], ready: str, log: Path) -> Iterator[None]:
    """A server that has answered at the address `ready`. Raises `RuntimeError` with its log if it does not start."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{argv[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - always http on loopback
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _served_name(port: int) -> str:
    import json

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=10) as response:
        return str(json.load(response)["data"][0]["id"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
