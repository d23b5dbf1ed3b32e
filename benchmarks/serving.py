"""llmserve against llama-server on the same GGUF file, in one run, turn by turn.

For each number of clients both servers are up, and each repetition measures one and then the other, so that a
machine whose speed drifts does not favour either. Printed are medians over the repetitions and llmserve's ratio.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load import Figures, Load, prompts, run
from benchmarks.servers import Server
from benchmarks.turns import arguments, both, take_turns

LOADS = (Load(clients=1, requests=4), Load(clients=4, requests=8), Load(clients=16, requests=32))


def main() -> None:
    parser = arguments("scripts/bench", __doc__)
    parser.add_argument("--clients", type=int, nargs="*", default=[load.clients for load in LOADS])
    asked = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    for model in asked.models:
        print(f"\n{model.name}, {threads} CPUs, {LOADS[0].output_tokens} output tokens, medians of {asked.repetitions}")
        print(f"{'clients':>7}  {'server':<13}{'tokens/s':>9}{'TTFT ms':>9}{'ms/token':>9}{'ratio':>7}")
        for load in LOADS:
            if load.clients in asked.clients:
                _compare(load, model, asked.llama_server, threads, asked.repetitions)


def _compare(load: Load, model: Path, binary: Path, threads: int, repetitions: int) -> None:
    async def measure(server: Server, repetition: int) -> Figures:
        return await run(load, server.port, server.model, prompts(load, seed=repetition))

    with both(model, binary, slots=load.clients, slot_tokens=2048, threads=threads) as servers:
        figures = asyncio.run(take_turns(servers, repetitions, measure))
    medians = [_medians(runs) for runs in figures]
    base = medians[-1].throughput
    for server, median in zip(servers, medians, strict=True):
        print(
            f"{load.clients:>7}  {server.name:<13}{median.throughput:>9.1f}{median.ttft * 1000:>9.0f}"
            f"{median.tpot * 1000:>9.2f}{median.throughput / base:>7.3f}",
            flush=True,
        )


def _medians(runs: Sequence[Figures]) -> Figures:
    return Figures(
        throughput=statistics.median(figures.throughput for figures in runs),
        ttft=statistics.median(figures.ttft for figures in runs),
        ttft_p95=statistics.median(figures.ttft_p95 for figures in runs),
        tpot=statistics.median(figures.tpot for figures in runs),
    )


if __name__ == "__main__":
    main()
