"""A real worker process over a tiny real model, started once for all tests of this folder."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from llmserve.types import EnginePlan, to_json
from tests.support import until
from tests.tiny_gguf import write_tiny_model

CONTEXT = 256
CELLS = 512
NAME = "tiny:test"


def tiny_plan(**changes: object) -> EnginePlan:
    values = {
        "engine": "llama.cpp",
        "devices": ("cpu",),
        "gpu_layers": 0,
        "total_layers": 3,
        "context": CONTEXT,
        "parallel": 8,
        "kv_cells": CELLS,
        "kv_type": "f16",
        "threads": 1,
        "wait_policy": "passive",
        "batch": 128,
        "micro_batch": 128,
        "flash_attention": True,
        "memory": (),
        "fits": True,
        "reason": "test",
        "refused": (),
    }
    return EnginePlan(**{**values, **changes})  # type: ignore[arg-type]


class WorkerProcess:
    """`python -m llmserve.llama` with its standard input held open, as the gateway holds it."""

    def __init__(self, folder: Path, model: Path, plan: EnginePlan, *arguments: str) -> None:
        self.socket = folder / "worker.sock"
        self.last_words = ""  # what it wrote to standard error, once it is closed
        argv = [sys.executable, "-P", "-m", "llmserve.llama"]
        argv += ["--socket", str(self.socket), "--name", NAME, "--model", str(model), "--plan", to_json(plan)]
        argv += arguments
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        transport = httpx2.HTTPTransport(uds=str(self.socket), retries=0)
        self.client = httpx2.Client(transport=transport, base_url="http://worker", timeout=60)

    def wait_ready(self) -> None:
        until(self._answers_or_ended, seconds=60)
        if self.process.poll() is not None:
            raise RuntimeError(self.stderr())

    def _answers_or_ended(self) -> bool:
        if self.process.poll() is not None:
            return True
        # The client leaves its socket open when it cannot connect, so it is asked only where somebody listens.
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.socket)) != 0:
                return False
        return self.client.get("/health").status_code == 200

    def stderr(self) -> str:
        return self.process.stderr.read().decode() if self.process.stderr else ""

    def close(self) -> int:
        """End its standard input, as a gateway that is gone does; returns the exit status."""
        self.client.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
        status = self.process.wait(timeout=20)
        self.last_words = self.stderr()
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", context=CONTEXT)


@pytest.fixture(scope="session")
def worker(tiny_model: Path) -> Iterator[WorkerProcess]:
    # A Unix socket's path must be short, which pytest's own folders are not.
    with tempfile.TemporaryDirectory(prefix="llm") as folder:
        worker = WorkerProcess(Path(folder), tiny_model, tiny_plan())
        worker.wait_ready()
        yield worker
        worker.close()
