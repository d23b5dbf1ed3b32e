"""A running gateway for the tests in a browser, and what only its worker knows."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import psutil  # type: ignore[import-untyped]

from tests.support import until

_START_SECONDS = 120


class Gateway:
    """`llmserve serve` as a process of its own, with the data directory `home`; its log is in `log`."""

    def __init__(self, home: Path, log: Path, key: str | None = None, **environment: str) -> None:
        variables = {**os.environ, "LLMSERVE_HOME": str(home), "LLMSERVE_PORT": "0", **environment}
        if key is not None:
            variables["LLMSERVE_API_KEY"] = key
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "llmserve", "serve"],
                env=variables,
                stdin=subprocess.DEVNULL,
                stderr=file,
            )
        self._log = log
        until(lambda: self._address() or self.process.poll() is not None, seconds=_START_SECONDS)
        self.url = self._address()
        assert self.url, log.read_text()
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.http = httpx2.Client(base_url=self.url, headers=headers, trust_env=False, timeout=_START_SECONDS)

    def _address(self) -> str:
        return self._log.read_text().partition("llmserve listens on ")[2].partition("\n")[0]

    def statuses(self) -> dict[str, dict[str, Any]]:
        return {model["name"]: model for model in self.http.get("/admin/ps").json()["models"]}

    def answered(self, route: str) -> float:
        """How many requests of `route` are over, by the end of their answer or because the client left."""
        lines = self.http.get("/metrics").text.splitlines()
        of_route = (line for line in lines if line.startswith("llmserve_requests_total{") and f'"{route}"' in line)
        return sum(float(line.rpartition(" ")[2]) for line in of_route)

    def load(self, model: str) -> None:
        assert self.http.post("/admin/load", json={"model": model}).status_code == 200

    def unload(self, model: str) -> None:
        assert self.http.post("/admin/stop", json={"model": model}).status_code == 200

    def worker_stats(self, model: str) -> dict[str, float]:
        """What the worker of `model` itself counts."""
        (status,) = (status for name, status in self.statuses().items() if name == model)
        command = psutil.Process(status["pid"]).cmdline()
        socket = command[command.index("--socket") + 1]
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=socket), base_url="http://worker") as client:
            return dict(client.get("/stats").json())

    def stop(self) -> None:
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def copy_of(home: Path, destination: Path) -> Path:
    """A data directory with the models of `home`, whose large files are the same ones."""
    shutil.copytree(home / "manifests", destination / "manifests")
    shutil.copytree(home / "blobs", destination / "blobs", copy_function=_link)
    return destination


def _link(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:  # on another file system
        shutil.copy2(source, destination)
