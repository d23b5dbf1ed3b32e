"""Clients that stream chats from an OpenAI-compatible server and note when each token arrives.

They speak HTTP/1.1 over plain asyncio streams: on a small machine the client shares the processor with the server, and
every cycle it does not need is one less that blurs the comparison.
"""

from __future__ import annotations

import asyncio
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
    """`requests` chats by `clients` at once, each with a prompt of its own and exactly `output_tokens` written."""

    clients: int
    requests: int
    prompt_words: int = 52
    output_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run: output tokens per second of all clients together, and medians over its requests, in seconds."""

    throughput: float
    ttft: float
    tpot: float


@dataclass(frozen=True, slots=True)
class _Timing:
    sent: float
    first: float
    last: float


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
    timings: list[_Timing] = []

    async def client() -> None:
        while queue:
            timings.append(await _chat(load, port, model, queue.pop()))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(load.clients):
            group.create_task(client())
    seconds = time.perf_counter() - started
    return Figures(
        throughput=len(timings) * load.output_tokens / seconds,
        ttft=statistics.median(timing.first - timing.sent for timing in timings),
        tpot=statistics.median((timing.last - timing.first) / (load.output_tokens - 1) for timing in timings),
    )


async def _chat(load: Load, port: int, model: str, text: str) -> _Timing:
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": text}],
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
    first = last = 0.0
    tail = b""
    while data := await reader.read(65536):
        if b'"content":"' in data.replace(b'"content":""', b"") and b"data: " in data:
            last = time.perf_counter()
            first = first or last
        tail = (tail + data)[-4096:]
    writer.close()
    await writer.wait_closed()
    if f'"completion_tokens":{load.output_tokens}'.encode() not in tail or not first:
        raise RuntimeError(f"the answer is not whole: {tail[-400:]!r}")
    return _Timing(sent, first, last)
