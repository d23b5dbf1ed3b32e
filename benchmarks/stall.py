"""What a long prompt does to those who are being answered: the gaps in their streams, and how long it waits itself."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load import Load, Timing, chat, percentile, prompts
from benchmarks.servers import Server
from benchmarks.turns import arguments, both, take_turns

STREAMS = Load(clients=4, requests=4, output_tokens=600)
LONG = Load(clients=1, requests=1, prompt_words=2500, output_tokens=8)
# When the long prompt comes: the streams are being written by then.
DELAY_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Stall:
    """In seconds: of the streams' gaps while the long prompt was computed, the 95th percentile and the longest; and
    the long prompt's own time to its first token.
    """

    gap_p95: float
    longest_gap: float
    ttft: float


def main() -> None:
    asked = arguments("python -m benchmarks.stall", __doc__).parse_args()
    threads = len(os.sched_getaffinity(0))
    for model in asked.models:
        print(f"\n{model.name}, {threads} CPUs, medians of {asked.repetitions}")
        with both(model, asked.llama_server, slots=STREAMS.clients + 1, slot_tokens=8192, threads=threads) as servers:
            ours, theirs = asyncio.run(take_turns(servers, asked.repetitions, _measure))
        _print("llmserve", ours)
        _print("llama-server", theirs)


async def _measure(server: Server, repetition: int) -> Stall:
    texts = prompts(STREAMS, seed=repetition)
    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(chat(STREAMS, server.port, server.model, text)) for text in texts]
        await asyncio.sleep(DELAY_SECONDS)
        (text,) = prompts(LONG, seed=repetition + 1000)
        long = await chat(LONG, server.port, server.model, text)
    gaps = [gap for stream in streams for gap in _gaps_during(long, stream.result())]
    return Stall(percentile(gaps, 95), max(gaps), long.ttft)


def _gaps_during(long: Timing, stream: Timing) -> list[float]:
    """The gaps of `stream` that reach into the time in which the long prompt was computed."""
    end = long.arrivals[0]
    return [
        gap
        for gap, arrival in zip(stream.gaps, stream.arrivals[1:], strict=True)
        if long.sent < arrival and arrival - gap < end
    ]


def _print(name: str, runs: Sequence[Stall]) -> None:
    print(
        f"{name:<13} gap p95 {statistics.median(run.gap_p95 for run in runs) * 1000:.0f} ms, "
        f"longest {statistics.median(run.longest_gap for run in runs) * 1000:.0f} ms; "
        f"the long prompt's TTFT {statistics.median(run.ttft for run in runs):.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
