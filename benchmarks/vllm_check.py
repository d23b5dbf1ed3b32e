"""Compare what a plan for vLLM estimates with what vLLM measures, and time it: Markdown for a report.

    python -m benchmarks.vllm_check

The model is the safetensors directory that LLMSERVE_TEST_SAFETENSORS names; vLLM the one that LLMSERVE_HOME, or
LLMSERVE_VLLM_PYTHON, has. Throughput is taken through the translators that the gateway uses, without the gateway.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from llmserve.engines.machine import probe_for
from llmserve.fleet.launcher import Launcher
from llmserve.fleet.vllm_worker import VllmWorker
from llmserve.planning.plan import plan
from llmserve.settings import home_directory, load_settings
from llmserve.store.adoption import adopt
from llmserve.store.store import Store
from llmserve.types import EnginePlan

_CLIENTS = (1, 4, 16)
_TOKENS = 64
_START_SECONDS = 600.0
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Timing:
    """Tokens per second of all clients together, and the median time to the first event, in milliseconds."""

    clients: int
    tokens_per_second: float
    first_event_ms: float


async def main() -> None:
    settings = load_settings()
    store = Store(home_directory(settings))
    model = adopt(store, Path(os.environ["LLMSERVE_TEST_SAFETENSORS"]))
    hardware = probe_for(settings)
    decided = plan(hardware, store.inspect(model.name), settings)
    launcher = Launcher(settings)
    worker = await launcher.worker(decided, model)
    if not isinstance(worker, VllmWorker):
        raise SystemExit(f"{model.name} is planned for {decided.engine}, not for vLLM")
    started = time.monotonic()
    await worker.start()
    try:
        await worker.ready(_START_SECONDS)
        print(f"## Start\n\n{decided.reason}.\n\nReady after {time.monotonic() - started:.0f} s.\n")
        _print_memory(decided, worker)
        await _one(worker, model.name, 0)  # the first request compiles what is left to compile
        print("## Throughput\n\n| clients | tokens/s | first event, ms (median) |\n|---|---|---|")
        for clients in _CLIENTS:
            timing = await _timed(worker, model.name, clients)
            print(f"| {timing.clients} | {timing.tokens_per_second:.0f} | {timing.first_event_ms:.0f} |")
    finally:
        await worker.stop(0)
        await worker.client.aclose()
        await launcher.close()


def _print_memory(decided: EnginePlan, worker: VllmWorker) -> None:
    """The plan's numbers for one device beside those that vLLM logged."""
    device = decided.memory[-1]
    measured = worker.measured
    rows = [
        ("weights, GiB", device.weights / _GIB, measured.weights_gib),
        ("KV cache, GiB", device.kv_cache / _GIB, measured.kv_gib),
        ("KV cache, tokens", float(decided.kv_cells), measured.kv_tokens),
        ("graphs, GiB", None, measured.graph_gib),
    ]
    print("## Memory of one device\n\n| | planned | measured | difference |\n|---|---|---|---|")
    for name, planned, found in rows:
        difference = "" if not planned or not found else f"{(planned - found) / found:+.1%}"
        print(f"| {name} | {_number(planned)} | {_number(found)} | {difference} |")
    print()


def _number(value: float | None) -> str:
    if value is None:
        return "not told"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


async def _timed(worker: VllmWorker, model: str, clients: int) -> Timing:
    started = time.perf_counter()
    firsts = await asyncio.gather(*(_one(worker, model, number) for number in range(clients)))
    seconds = time.perf_counter() - started
    return Timing(clients, clients * _TOKENS / seconds, 1000 * statistics.median(firsts))


async def _one(worker: VllmWorker, model: str, number: int) -> float:
    """Read one stream to its end; seconds to its first event."""
    request = {"model": model, "prompt": f"Story {number}: once", "max_tokens": _TOKENS, "ignore_eos": True}
    body = json.dumps({**request, "stream": True, "temperature": 0}).encode()
    headers = ((b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body)))
    connection = await worker.connect(10.0)
    started = time.perf_counter()
    connection.send("POST", b"/v1/completions", headers, body)
    await connection.response(None)
    first = 0.0
    while not connection.complete:
        await connection.more(None)
        first = first or time.perf_counter() - started
        connection.take()
    connection.abort()
    return first


if __name__ == "__main__":
    asyncio.run(main())
