"""A real worker process over a tiny real model, started once for all tests of this folder."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

    def complete(self, prompt: str | list[str], **fields: Any) -> dict[str, Any]:
        """What `/v1/completions` answers, at temperature 0 and to the limit of tokens unless `fields` say otherwise."""
        body = {"model": "m", "prompt": prompt, "temperature": 0, "max_tokens": 64, "ignore_eos": True, **fields}
        response = self.client.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def stats(self) -> dict[str, int]:
        figures: dict[str, int] = self.client.get("/stats").json()
        return figures

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


@contextmanager
def running(model: Path, *plans: EnginePlan, arguments: tuple[str, ...] = ()) -> Iterator[list[WorkerProcess]]:
    """A worker for each plan, ready; started side by side."""
    started: list[WorkerProcess] = []
    # A Unix socket's path must be short, which pytest's own folders are not.
    with tempfile.TemporaryDirectory(prefix="llm") as folder:
        try:
            for number, plan in enumerate(plans):
                place = Path(folder, str(number))
                place.mkdir()
                started.append(WorkerProcess(place, model, plan, *arguments))
            for worker in started:
                worker.wait_ready()
            yield started
        finally:
            for worker in started:
                worker.close()


@pytest.fixture(scope="session")
def worker(tiny_model: Path) -> Iterator[WorkerProcess]:
    with running(tiny_model, tiny_plan()) as [worker]:
        yield worker
