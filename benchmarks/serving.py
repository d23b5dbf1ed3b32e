"""llmserve against llama-server on the same GGUF file, in one run, turn by turn.

For each number of clients both servers are up, and each repetition measures one and then the other, so that a
machine whose speed drifts does not favour either. Printed are medians over the repetitions and llmserve's ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load import Figures, Load, prompts, run
from benchmarks.servers import Server, llama_server, llmserve

LOADS = (Load(clients=1, requests=4), Load(clients=4, requests=8), Load(clients=16, requests=32))


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="GGUF files")
    parser.add_argument("--llama-server", type=Path, required=True, help="the peer's program")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="*", default=[load.clients for load in LOADS])
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    for model in arguments.models:
        print(
            f"\n{model.name}, {threads} CPUs, {LOADS[0].output_tokens} output tokens, "
            f"medians of {arguments.repetitions}"
        )
        print(f"{'clients':>7}  {'server':<13}{'tokens/s':>9}{'TTFT ms':>9}{'ms/token':>9}{'ratio':>7}")
        for load in LOADS:
            if load.clients in arguments.clients:
                _compare(load, model.absolute(), arguments.llama_server, threads, arguments.repetitions)


def _compare(load: Load, model: Path, binary: Path, threads: int, repetitions: int) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        ours = stack.enter_context(llmserve(model, Path(folder), max(16, load.clients)))
        theirs = stack.enter_context(llama_server(binary, model, load.clients, threads, Path(folder)))
        figures = asyncio.run(_take_turns(load, (ours, theirs), repetitions))
    medians = {server.name: _medians(figures[server.name]) for server in (ours, theirs)}
    base = medians[theirs.name].throughput
    for name, median in medians.items():
        print(
            f"{load.clients:>7}  {name:<13}{median.throughput:>9.1f}{median.ttft * 1000:>9.0f}"
            f"{median.tpot * 1000:>9.2f}{median.throughput / base:>7.3f}",
            flush=True,
        )


async def _take_turns(load: Load, servers: Sequence[Server], repetitions: int) -> dict[str, list[Figures]]:
    figures: dict[str, list[Figures]] = {server.name: [] for server in servers}
    for repetition in range(-1, repetitions):
        texts = prompts(load, seed=repetition)
        # Whoever goes first in one repetition goes second in the next.
        for server in servers if repetition % 2 else reversed(servers):
            measured = await run(load, server.port, server.model, texts)
            if repetition >= 0:  # the first one warms up
                figures[server.name].append(measured)
    return figures


def _medians(runs: Sequence[Figures]) -> Figures:
    return Figures(
        throughput=statistics.median(figures.throughput for figures in runs),
        ttft=statistics.median(figures.ttft for figures in runs),
        tpot=statistics.median(figures.tpot for figures in runs),
    )


if __name__ == "__main__":
    main()
