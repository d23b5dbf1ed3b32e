"""llmserve and Open WebUI as processes of their own, and what only an engine knows."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.support import until

# Open WebUI imports torch and makes its database at its first start.
_START_SECONDS = 240


class Program:
    """A server that writes its output into `log`, and is up once `ready_path` is answered with a success."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], log: Path, url: str, ready_path: str
    ) -> None:
        self.url = url
        self.http = httpx2.Client(base_url=url, trust_env=False, timeout=120)
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                argv, env=dict(environment), cwd=log.parent, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        until(lambda: self.process.poll() is not None or self._answers(ready_path), seconds=_START_SECONDS)
        assert self.process.poll() is None, log.read_text(errors="replace")[-4000:]

    def stop(self) -> int:
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _answers(self, path: str) -> bool:
        try:
            return self.http.get(path).is_success
        except httpx2.TransportError:
            return False


class Gateway(Program):
    """`llmserve serve` with the data directory `home`, on a port of its own and on one that is Ollama's."""

    def __init__(self, home: Path, key: str, log: Path, *models: str, **environment: str) -> None:
        port, ollama_port = free_port(), free_port()
        argv = [sys.executable, "-P", "-m", "llmserve", "serve", "--port", str(port), "--ollama-port", str(ollama_port)]
        argv += ["--keep-alive", "-1"]
        variables = {**os.environ, "LLMSERVE_HOME": str(home), "LLMSERVE_API_KEY": key, **environment}
        super().__init__([*argv, *models], variables, log, f"http://127.0.0.1:{port}", "/health")
        self.ollama_url = f"http://127.0.0.1:{ollama_port}"
        self.http.headers["Authorization"] = f"Bearer {key}"

    def statuses(self) -> dict[str, dict[str, Any]]:
        return {model["name"]: model for model in self.http.get("/admin/ps").json()["models"]}

    def ready(self, model: str) -> bool:
        return self.statuses().get(model, {}).get("state") == "ready"

    def installed(self) -> set[str]:
        return {model["id"] for model in self.http.get("/v1/models").json()["data"]}

    def idle(self) -> bool:
        """Whether no request runs or waits, neither here nor in a worker."""
        return self.metric("llmserve_generations_in_flight") == 0 and not any(
            self.worker_stats(model)["running"] for model in self.statuses() if self.ready(model)
        )

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all samples that have these labels."""
        text = self.http.get("/metrics").text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def worker_stats(self, model: str) -> dict[str, float]:
        """What the worker of `model` itself counts."""
        command = psutil.Process(self.statuses()[model]["pid"]).cmdline()
        transport = httpx2.HTTPTransport(uds=command[command.index("--socket") + 1])
        with httpx2.Client(transport=transport, base_url="http://worker") as client:
            return dict(client.get("/stats").json())


class OpenWebUI(Program):
    """Open WebUI with an empty data directory in `folder`; `environment` says what it talks to."""

    def __init__(self, program: Path, folder: Path, environment: Mapping[str, str]) -> None:
        port = free_port()
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DATA_DIR": str(folder),
            "WEBUI_SECRET_KEY": "k-pages-7d0f1c",
            "OFFLINE_MODE": "true",
            "ENABLE_VERSION_UPDATE_CHECK": "false",
            "SCARF_NO_ANALYTICS": "true",
            "DO_NOT_TRACK": "true",
            "ANONYMIZED_TELEMETRY": "false",
            **environment,
        }
        argv = [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)]
        super().__init__(argv, variables, folder / "log", f"http://127.0.0.1:{port}", "/health")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
