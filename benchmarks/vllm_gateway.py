"""What the gateway costs a client of vLLM: the same chats over vLLM's own socket and through the gateway, in turns.

    python -m benchmarks.vllm_gateway [--clients 1 16] [--rounds 20] [--tokens 32] [--requests 1]

The model is the safetensors directory that LLMSERVE_TEST_SAFETENSORS names; vLLM the one that LLMSERVE_HOME, or
LLMSERVE_VLLM_PYTHON, has. Every round goes each way, in an order that changes from round to round; every prompt is new.
With `--requests 1` all clients of a round ask in the same instant, and are answered after all of them were read. With
more, each client asks anew when its answer has ended, for answers of different lengths (`--tokens`, give or take half),
so that requests come one by one. What counts is the ratio and the difference, not the figures of one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.servers import free_port, running
from llmserve.settings import home_directory, load_settings
from llmserve.store.adoption import adopt
from llmserve.store.store import Store

_TEXT = re.compile(rb'"content": ?"[^"]')
_WARM_UP_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Way:
    """To a server: a Unix socket, or a port of this machine."""

    name: str
    place: Path | int

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.place, int):
            return await asyncio.open_connection("127.0.0.1", self.place)
        return await asyncio.open_unix_connection(str(self.place))


@dataclass(slots=True)
class Times:
    """Of one way: seconds to the first text of each stream, in the order they were asked; tokens per second of each
    round."""

    firsts: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


async def stream(way: Way, model: str, prompt: str, tokens: int) -> float:
    """Read one stream to its end; seconds from the request to the first text."""
    reader, writer = await way.open()
    messages = [{"role": "system", "content": "You are a helpful AI assistant."}, {"role": "user", "content": prompt}]
    asked = {"model": model, "messages": messages, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    body = json.dumps({**asked, "stream": True}).encode()
    headers = ("Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
    started = time.perf_counter()
    writer.write("\r\n".join(("POST /v1/chat/completions HTTP/1.1", *headers, "", "")).encode() + body)
    first: float | None = None
    received = b""
    while piece := await reader.read(65536):
        received += piece
        if first is None and _TEXT.search(received):
            first = time.perf_counter() - started
    writer.close()
    if first is None or b"data: [DONE]" not in received:
        raise RuntimeError(f"{way.name}: no whole answer: {received[-500:]!r}")
    return first


@dataclass(frozen=True, slots=True)
class Load:
    """`clients`, each with so many `requests` one after the other, for answers of about so many `tokens`."""

    clients: int
    requests: int
    tokens: int

    def lengths(self, number: int) -> list[list[int]]:
        """The tokens of each client's answers in the round of this number, the same each way."""
        if self.requests == 1:
            return [[self.tokens]] * self.clients
        chosen = random.Random(number)
        least, most = self.tokens // 2, self.tokens + self.tokens // 2
        return [[chosen.randint(least, most) for _ in range(self.requests)] for _ in range(self.clients)]


async def measured(ways: Sequence[Way], model: str, load: Load, rounds: int) -> dict[str, Times]:
    times = {way.name: Times() for way in ways}

    async def client(way: Way, number: int, name: int, lengths: list[int]) -> list[float]:
        prompts = (
            f"Story {number}.{which} of {name} by {way.name}: tell me about it." for which in range(len(lengths))
        )
        return [await stream(way, model, prompt, tokens) for prompt, tokens in zip(prompts, lengths, strict=True)]

    for number in range(-_WARM_UP_ROUNDS, rounds):
        lengths = load.lengths(number)
        for way in ways if number % 2 else reversed(ways):
            started = time.perf_counter()
            firsts = await asyncio.gather(*(client(way, number, name, each) for name, each in enumerate(lengths)))
            if number >= 0:
                # The clients' first requests come all at once, and do not count where others follow.
                times[way.name].firsts += [first for each in firsts for first in each[1:] or each]
                times[way.name].rates.append(sum(map(sum, lengths)) / (time.perf_counter() - started))
    return times


def row(clients: int, direct: Times, gateway: Times) -> str:
    first, other = (1000 * statistics.median(times.firsts) for times in (direct, gateway))
    rate, relayed = statistics.median(direct.rates), statistics.median(gateway.rates)
    shown = (f"{rate:.1f}", f"{relayed:.1f}", f"{relayed / rate:.3f}", f"{first:.1f}", f"{other:.1f}")
    return f"| {clients} | {' | '.join(shown)} | {other - first:+.1f} |"


def socket_of(gateway: int) -> Path:
    """Where the vLLM that the gateway on this port has started listens."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "--port" in command and str(gateway) in command:
            for child in process.children(recursive=True):
                arguments = child.cmdline()
                if "--uds" in arguments:
                    return Path(arguments[arguments.index("--uds") + 1])
    raise RuntimeError("no vLLM server was found below the gateway")


def main() -> None:
    parser = argparse.ArgumentParser(description="What the gateway adds to vLLM's answers.")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--requests", type=int, default=1, help="of each client in a round")
    parser.add_argument("--port", type=int, help="of a gateway that has the model loaded already")
    given = parser.parse_args()
    if "LLMSERVE_TEST_SAFETENSORS" not in os.environ:
        parser.error("LLMSERVE_TEST_SAFETENSORS names no safetensors directory (scripts/test-vllm makes one)")
    home = home_directory(load_settings())
    model = adopt(Store(home), Path(os.environ["LLMSERVE_TEST_SAFETENSORS"])).name

    def compare(port: int) -> None:
        ways = (Way("socket", socket_of(port)), Way("gateway", port))
        print("| clients | socket, tokens/s | gateway | ratio | socket, TTFT p50 ms | gateway | added |")
        print("|---|---|---|---|---|---|---|")
        for clients in given.clients:
            times = asyncio.run(measured(ways, model, Load(clients, given.requests, given.tokens), given.rounds))
            print(row(clients, times["socket"], times["gateway"]), flush=True)

    if given.port is not None:
        compare(given.port)
        return
    port = free_port()
    argv = [sys.executable, "-P", "-m", "llmserve", "serve", "--port", str(port), model]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with running(argv, {**os.environ, "LLMSERVE_HOME": str(home)}, f"http://127.0.0.1:{port}/ready", log):
            compare(port)


if __name__ == "__main__":
    main()
