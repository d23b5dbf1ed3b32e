"""A server that is killed, again and again, while it works on a batch: every line is answered once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.api.test_server import PROGRAM
from tests.support import until

NIGHTLY = "LLMSERVE_TEST_NIGHTLY" in os.environ
LINES = 2000 if NIGHTLY else 150
KILLS = 5 if NIGHTLY else 3
# Every so many lines one makes no sense.
WRONG = 25


class Servers:
    """One server after the other, with the same data directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx2.Client()

    def start(self) -> None:
        self._number += 1
        log = self._folder / f"stderr-{self._number}"
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "[]"], stderr=file, env={**os.environ, "LLMSERVE_PORT": "0"}
            )
        found: list[str] = []
        until(lambda: found.extend(re.findall("llmserve listens on (.*)", log.read_text())) or found)
        self.client = httpx2.Client(base_url=found[0], trust_env=False, timeout=20)

    def kill(self) -> None:
        self.client.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    servers = Servers(tmp_path)
    servers.start()
    yield servers
    servers.kill()


def line(number: int) -> dict[str, Any]:
    """A request whose answer names it; every `WRONG`-th is refused."""
    content = json.dumps({"tokens": [f"answer {number}"], "delay": 0.01})
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "n": 0 if number % WRONG == 0 else 1}
    return {"custom_id": f"line {number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


@pytest.mark.timeout(600 if NIGHTLY else 120)
def test_every_line_is_answered_once_in_order(servers: Servers) -> None:
    content = "\n".join(json.dumps(line(number)) for number in range(LINES)).encode()
    file = servers.client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    path = f"/v1/batches/{servers.client.post('/v1/batches', json=asked).json()['id']}"

    def batch() -> dict[str, Any]:
        return dict(servers.client.get(path).json())

    def answered() -> int:
        counts = batch()["request_counts"]
        return int(counts["completed"] + counts["failed"])

    for kill in range(1, KILLS + 1):
        until(lambda least=kill * LINES // (KILLS + 1): answered() >= least, seconds=100)
        assert batch()["status"] == "in_progress"
        servers.kill()
        servers.start()
    until(lambda: batch()["status"] not in ("in_progress", "finalizing"), seconds=100)
    final = batch()
    assert final["status"] == "completed"
    wrong = [number for number in range(LINES) if number % WRONG == 0]
    right = [number for number in range(LINES) if number % WRONG != 0]
    assert final["request_counts"] == {"total": LINES, "completed": len(right), "failed": len(wrong)}

    def lines_of(id: str) -> list[dict[str, Any]]:
        return [json.loads(text) for text in servers.client.get(f"/v1/files/{id}/content").text.splitlines()]

    answers, errors = lines_of(final["output_file_id"]), lines_of(final["error_file_id"])
    assert [answer["custom_id"] for answer in answers] == [f"line {number}" for number in right]
    said = [answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers]
    assert said == [f"answer {number}" for number in right]
    assert [error["custom_id"] for error in errors] == [f"line {number}" for number in wrong]
    assert {error["response"]["body"]["error"]["param"] for error in errors} == {"n"}
    assert {error["response"]["status_code"] for error in errors} == {400}
    assert final["usage"]["output_tokens"] == len(right)
