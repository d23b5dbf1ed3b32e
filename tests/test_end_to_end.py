"""The official client against `llmserve serve` with the starter model, crashes included."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from llmserve.openai.sse import DONE
from tests.support import runs, until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

MODEL = "smollm2:135m"
KILLS = int(os.environ.get("LLMSERVE_TEST_REAL_KILLS", "2"))
STREAMS = 64
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


class Streams:
    """64 streams of one worker, which is killed as soon as all its slots write."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._killed_at: float | None = None
        self._writing = 0
        self.ends: Counter[str] = Counter()
        self.told_after = 0.0

    async def run(self) -> None:
        limits = httpx2.Limits(max_connections=None)
        base = f"http://127.0.0.1:{self._served.port}"
        async with httpx2.AsyncClient(base_url=base, trust_env=False, timeout=120, limits=limits) as client:
            await asyncio.gather(*(self._stream(client, number) for number in range(STREAMS)))

    async def _stream(self, client: httpx2.AsyncClient, number: int) -> None:
        body = {"model": MODEL, "prompt": f"{number}, {number + 1},", "max_tokens": 12, "ignore_eos": True}
        async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            assert answer.status_code == 200
            received = b""
            async for piece in answer.aiter_raw():
                received += piece
                self._read()
        if received.endswith(DONE):
            assert received.count(b"data: ") >= 2
            self.ends["whole"] += 1
        else:
            assert b'data: {"error"' in received
            assert self._killed_at is not None
            self.told_after = max(self.told_after, time.monotonic() - self._killed_at)
            self.ends["told"] += 1

    def _read(self) -> None:
        self._writing += 1
        if self._killed_at is None and self._writing >= 8:
            (worker,) = self._served.workers()
            self._killed_at = time.monotonic()
            worker.kill()


@pytest.mark.timeout(300 + 60 * KILLS)
def test_kill_9_under_64_streams(served: ServedModel) -> None:
    """What has begun is told, what has not is answered by the next worker. Prints how long both took at most."""
    ends: Counter[str] = Counter()
    told_after = back_after = 0.0
    for _ in range(KILLS):
        streams = Streams(served)
        asyncio.run(streams.run())
        asked = time.monotonic()
        assert "Paris" in served.chat("What is the capital of France?", max_tokens=8).choices[0].message.content
        back_after = max(back_after, time.monotonic() - asked)
        assert streams.ends.total() == STREAMS
        ends += streams.ends
        told_after = max(told_after, streams.told_after)
    assert served.process.poll() is None
    assert ends["told"] > 0
    assert told_after < 1
    print(f"{KILLS} kills: {dict(ends)}; told after {told_after:.2f} s, answered again after {back_after:.2f} s")


def test_a_killed_gateway_leaves_no_worker(starter_home: Path) -> None:
    server = ServedModel(starter_home)
    server.chat("Hello!", max_tokens=1)
    (worker,) = server.workers()
    server.process.kill()
    server.process.wait()
    until(lambda: not runs(worker), seconds=2)
    server.client.close()
