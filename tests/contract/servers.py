"""Running gateways for the contract tests: one for each engine, with the same model's weights in its own format."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil  # type: ignore[import-untyped]
import pytest

from llmserve.engines.vllm import installed
from llmserve.store.store import USER_CATALOG, Store
from tests.support import until

# With it every quantization of the model answers the questions here, and ends its answers.
SYSTEM = {"role": "system", "content": "You are a helpful AI assistant."}

# A first start of vLLM reads gigabytes of Python and libraries; nothing is compiled.
_START_SECONDS = 400
CATALOG = """
[models."{model}"]
description = "The starter model."
tool_parser = "hermes"
variants = [{{ format = "safetensors", quantization = "BF16", source = "hf:nobody/nothing" }}]
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine under test: its name, the model it serves, and the environment its gateway gets."""

    engine: str
    model: str
    environment: dict[str, str]


class Server:
    """`llmserve serve` as a process of its own, with clients for it."""

    def __init__(self, subject: Subject) -> None:
        self.engine = subject.engine
        self.model = subject.model
        self.home = Path(subject.environment["LLMSERVE_HOME"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        argv = [sys.executable, "-P", "-m", "llmserve", "serve", "--port", str(port), subject.model]
        environment = {**os.environ, **subject.environment}
        self.process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx2.Client(base_url=self.url, timeout=_START_SECONDS)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=_START_SECONDS)
        until(self.is_ready, seconds=_START_SECONDS)

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway for {self.engine} ended with {self.process.returncode}")
        try:
            return self.http.get("/ready", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    def chat(self, text: str, **fields: Any) -> dict[str, Any]:
        """The parsed answer to one message, which must be answered with 200; greedy, unless a field says otherwise."""
        answer = self.ask("/v1/chat/completions", messages=[SYSTEM, {"role": "user", "content": text}], **fields)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def complete(self, prompt: Any, **fields: Any) -> dict[str, Any]:
        """Likewise for a text completion."""
        answer = self.ask("/v1/completions", prompt=prompt, **fields)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def ask(self, path: str, **fields: Any) -> httpx2.Response:
        request = {"model": self.model, "temperature": 0, "max_tokens": 16, **fields}
        return self.http.post(path, json=request)

    def parts(self) -> list[psutil.Process]:
        """The processes of the engine, the one that answers first."""
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children

    def open_requests(self) -> int:
        """How many requests the model has."""
        models = self.http.get("/admin/ps").json()["models"]
        return sum(int(model["leases"]) for model in models)

    def stop(self) -> None:
        self.http.close()
        self.openai.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def llama_subject(home: Path) -> Subject:
    return Subject("llama.cpp", "smollm2:135m", {"LLMSERVE_HOME": str(home)})


def local_subject(engine: str, home: Path, path: Path, environment: dict[str, str]) -> Subject:
    """`engine` with the model at `path`, which becomes known to a store in `home`."""
    environment = {"LLMSERVE_HOME": str(home), **environment}
    _llmserve(environment, "pull", str(path))
    return Subject(engine, f"{path.stem}:local", environment)


def starter_file(home: Path) -> Path:
    """The starter model's GGUF file in the store `home`."""
    return Path(Store(home).find("smollm2:135m").path)


def starter_vllm_subject(starter_home: Path, home: Path) -> Subject:
    """The starter model on vLLM, with a store in `home`. Skips where `scripts/test-vllm` did not prepare it.

    Its chat template knows no tools, so the user's catalog names the parser that reads calls.
    """
    directory = Path(os.environ.get("LLMSERVE_TEST_SAFETENSORS", ""))
    subject = local_subject("vllm", home, directory, vllm_environment(starter_home))
    (home / USER_CATALOG).write_text(CATALOG.format(model=subject.model), encoding="utf-8")
    return subject


def vllm_environment(starter_home: Path) -> dict[str, str]:
    """What the environment of a gateway names vLLM with. Skips where `scripts/test-vllm` did not prepare it."""
    python = vllm_python(starter_home)
    if python is None or "LLMSERVE_TEST_SAFETENSORS" not in os.environ:
        pytest.skip("vLLM and a safetensors model are not at hand: run scripts/test-vllm, which makes them")
    return {"LLMSERVE_VLLM_PYTHON": str(python)}


def template_subject(subject: Subject, template: str) -> Subject:
    """The model of `subject` with another chat template, as `llmserve create` makes it in the same store."""
    description = Path(subject.environment["LLMSERVE_HOME"]) / "described.toml"
    description.write_text(f"base = \"{subject.model}\"\ntemplate = '''{template}'''\n", encoding="utf-8")
    name = "told:1"
    _llmserve(subject.environment, "create", name, "-f", str(description))
    return replace(subject, model=name)


def vllm_python(home: Path) -> Path | None:
    """An interpreter with vLLM: the one that the environment names, or one that was installed under `home`."""
    named = os.environ.get("LLMSERVE_TEST_VLLM_PYTHON")
    installation = installed(home, None if named is None else Path(named))
    return None if installation is None else installation.python


def _llmserve(environment: dict[str, str], *arguments: str) -> None:
    argv: Sequence[str] = [sys.executable, "-P", "-m", "llmserve", *arguments]
    subprocess.run(argv, env={**os.environ, **environment}, check=True, capture_output=True, timeout=120)
