"""The official client against `llmserve serve` with the starter model, crashes included."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.support import runs, until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

MODEL = "smollm2:135m"
SYSTEM = {"role": "system", "content": "You are a helpful AI assistant."}


class ServedModel:
    """`llmserve serve` as a process of its own, and a client for it."""

    def __init__(self, home: Path, *models: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        environment = {**os.environ, "LLMSERVE_HOME": str(home)}
        argv = [sys.executable, "-P", "-m", "llmserve", "serve", "--port", str(self.port), *models]
        self.process = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{self.port}/v1"
        self.client = openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=120)
        until(self._listens, seconds=30)

    def workers(self) -> list[psutil.Process]:
        return [p for p in psutil.Process(self.process.pid).children(recursive=True) if "llmserve.llama" in p.cmdline()]

    def chat(self, question: str, **fields: Any) -> Any:
        messages = [SYSTEM, {"role": "user", "content": question}]
        request: dict[str, Any] = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 24, **fields}
        return self.client.chat.completions.create(**request)

    def stop(self) -> int:
        self.client.close()
        self.process.terminate()
        return self.process.wait(timeout=40)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture(scope="module")
def served(starter_home: Path) -> Iterator[ServedModel]:
    server = ServedModel(starter_home)
    yield server
    assert server.stop() == 0


def joined(stream: Any) -> str:
    return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)


def test_the_answer_is_right_and_streamed_it_is_the_same(served: ServedModel) -> None:
    question = "What is the capital of France?"
    whole = served.chat(question).choices[0].message.content
    assert "Paris" in whole
    assert joined(served.chat(question, stream=True)) == whole


def test_text_completions_stream_and_count(served: ServedModel) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
    whole = served.client.completions.create(**request)
    assert "Paris" in whole.choices[0].text
    stream = served.client.completions.create(**request, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_sixteen_at_once_all_answer_their_own_question(served: ServedModel) -> None:
    numbers = range(16)
    questions = [f"Repeat after me: the number is {number}." for number in numbers]
    with ThreadPoolExecutor(16) as pool:
        streamed = pool.map(lambda question: joined(served.chat(question, stream=True)), questions[::2])
        whole = pool.map(lambda question: served.chat(question).choices[0].message.content, questions[1::2])
        answers = [*streamed, *whole]
    for number, answer in zip([*numbers[::2], *numbers[1::2]], answers, strict=True):
        assert str(number) in answer


def test_a_worker_killed_mid_stream_costs_that_stream_alone(served: ServedModel) -> None:
    stream = served.chat("Count to one thousand.", stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
    next(iter(stream))
    (worker,) = served.workers()
    killed = time.monotonic()
    worker.send_signal(signal.SIGKILL)
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass
    assert time.monotonic() - killed < 1
    assert served.process.poll() is None
    assert "Paris" in served.chat("What is the capital of France?").choices[0].message.content
    (successor,) = served.workers()
    assert successor.pid != worker.pid


def test_a_killed_gateway_leaves_no_worker(starter_home: Path) -> None:
    server = ServedModel(starter_home)
    server.chat("Hello!", max_tokens=1)
    (worker,) = server.workers()
    server.process.kill()
    server.process.wait()
    until(lambda: not runs(worker), seconds=2)
    server.client.close()
