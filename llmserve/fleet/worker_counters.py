"""What the workers have counted since their start, as they tell it themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import httpx2

from llmserve.fleet.record import Instance

# A worker that is busy with more urgent things is left out.
_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class WorkerCounters:
    """The counters of one worker, by their names in `GET /stats`; `pid` tells it from the next one of its model."""

    model: str
    pid: int | None
    counts: Mapping[str, float]


async def ask_for_counters(instances: Iterable[Instance]) -> tuple[WorkerCounters, ...]:
    """Ask all at once; who does not answer within a second, or not in the protocol, is left out."""
    answers = await asyncio.gather(*map(_ask, instances))
    return tuple(answer for answer in answers if answer is not None)


async def _ask(instance: Instance) -> WorkerCounters | None:
    worker = instance.worker
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            answer = await worker.client.get("/stats")
        stats = answer.json() if answer.status_code == 200 else None
    except (TimeoutError, httpx2.TransportError, ValueError):
        return None
    if not isinstance(stats, dict):
        return None
    counts = {name: value for name, value in stats.items() if type(value) in (int, float) and value >= 0}
    return WorkerCounters(instance.model.name, worker.pid, counts)
