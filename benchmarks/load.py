"""Clients that stream chats from an OpenAI-compatible server and note when each token arrives.

They speak HTTP/1.1 over plain asyncio streams: on a small machine the client shares the processor with the server, and
every cycle it does not need is one less that blurs the comparison.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

_WORDS = [
    "river",
    "stone",
    "light",
    "winter",
    "garden",
    "machine",
    "paper",
    "morning",
    "bridge",
    "signal",
    "harbour",
    "copper",
    "market",
    "window",
    "engine",
    "forest",
    "letter",
    "mountain",
    "silver",
    "thunder",
    "orchard",
    "lantern",
    "compass",
    "meadow",
    "furnace",
    "village",
    "station",
    "captain",
]


@dataclass(frozen=True, slots=True)
class Load:
    """`requests` chats by `clients` at once, each with a prompt of its own and exactly `output_tokens` written.

    `system_words`: all begin with one and the same system message of so many words, chosen by `system_seed`; 0: the
    model's own.
    """

    clients: int
    requests: int
    prompt_words: int = 52
    output_tokens: int = 64
    system_words: int = 0
    system_seed: int = 0

    @property
    def system(self) -> str | None:
        if not self.system_words:
            return None
        return " ".join(random.Random(f"system {self.system_seed}").choices(_WORDS, k=self.system_words))


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run: output tokens per second of all clients together, and over its requests, in seconds, the median and
    the 95th percentile of the time to the first token, and the median time per token after it.
    """

    throughput: float
    ttft: float
    ttft_p95: float
    tpot: float


@dataclass(frozen=True, slots=True)
class Timing:
    """One chat on the clock, in seconds: when it was sent, and when each piece of its text arrived."""

    sent: float
    arrivals: tuple[float, ...]

    @property
    def ttft(self) -> float:
        return self.arrivals[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in itertools.pairwise(self.arrivals)]


def prompts(load: Load, seed: int) -> list[str]:
    """Different from the first word on, so that a server's prefix cache helps with the template alone."""
    # Seeded by text: for an integer, Random takes -1 and 1 for the same.
    rng = random.Random(f"prompts {seed}")
    return [
        f"{rng.randrange(10**6)} " + " ".join(rng.choices(_WORDS, k=load.prompt_words)) for _ in range(load.requests)
    ]


async def run(load: Load, port: int, model: str, texts: Sequence[str]) -> Figures:
    """Send `texts`, `load.clients` at a time. Raises `RuntimeError` on an error or a wrong number of tokens."""
    queue = list(reversed(texts))
    timings: list[Timing] = []

    async def client() -> None:
        while queue:
            timings.append(await chat(load, port, model, queue.pop()))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(load.clients):
            group.create_task(client())
    seconds = time.perf_counter() - started
    return Figures(
        throughput=len(timings) * load.output_tokens / seconds,
        ttft=statistics.median(timing.ttft for timing in timings),
        ttft_p95=percentile([timing.ttft for timing in timings], 95),
        tpot=statistics.median(sum(timing.gaps) / (load.output_tokens - 1) for timing in timings),
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of `values` (at least one) do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


async def chat(load: Load, port: int, model: str, text: str) -> Timing:
    """Stream one chat to its end. Raises `RuntimeError` on an error or a wrong number of tokens."""
    system = [{"role": "system", "content": load.system}] if load.system_words else []
    body = json.dumps(
        {
            "model": model,
            "messages": [*system, {"role": "user", "content": text}],
            "max_tokens": load.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = time.perf_counter()
    writer.write(head + body)
    arrivals: list[float] = []
    tail = b""
    while data := await reader.read(65536):
        if b'"content":"' in data.replace(b'"content":""', b"") and b"data: " in data:
            arrivals.append(time.perf_counter())
        tail = (tail + data)[-4096:]
    writer.close()
    await writer.wait_closed()
    if f'"completion_tokens":{load.output_tokens}'.encode() not in tail or not arrivals:
        raise RuntimeError(f"the answer is not whole: {tail[-400:]!r}")
    return Timing(sent, tuple(arrivals))
