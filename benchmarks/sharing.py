"""Many clients behind one long system message, as an application sends them: who computes it once?

Each repetition has a message of its own, and prompts of its own: nothing is left of the one before.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.load import Figures, Load, prompts, run
from benchmarks.servers import Server
from benchmarks.turns import arguments, both, take_turns

# About 400 tokens in common, 90 of each request's own, 32 written.
LOAD = Load(clients=16, requests=48, prompt_words=72, output_tokens=32, system_words=340)


def main() -> None:
    asked = arguments("python -m benchmarks.sharing", __doc__).parse_args()
    threads = len(os.sched_getaffinity(0))
    for model in asked.models:
        print(f"\n{model.name}, {threads} CPUs, {LOAD}, medians of {asked.repetitions}")
        with both(model, asked.llama_server, slots=LOAD.clients, slot_tokens=2048, threads=threads) as servers:
            ours, theirs = asyncio.run(take_turns(servers, asked.repetitions, _measure))
        _print("llmserve", ours, theirs)
        _print("llama-server", theirs, theirs)


async def _measure(server: Server, repetition: int) -> Figures:
    load = replace(LOAD, system_seed=repetition)
    return await run(load, server.port, server.model, prompts(load, seed=repetition))


def _print(name: str, runs: Sequence[Figures], base: Sequence[Figures]) -> None:
    throughput, ttft, ttft_p95 = _medians(runs)
    base_throughput, _, base_p95 = _medians(base)
    print(
        f"{name:<13}{throughput:>7.1f} tokens/s ({throughput / base_throughput:.2f}x), "
        f"TTFT {ttft * 1000:.0f} ms, p95 {ttft_p95 * 1000:.0f} ms ({ttft_p95 / base_p95:.2f}x)",
        flush=True,
    )


def _medians(runs: Sequence[Figures]) -> tuple[float, float, float]:
    return (
        statistics.median(figures.throughput for figures in runs),
        statistics.median(figures.ttft for figures in runs),
        statistics.median(figures.ttft_p95 for figures in runs),
    )


if __name__ == "__main__":
    main()
