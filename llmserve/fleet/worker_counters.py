"""What the workers have counted since their start, as they tell it themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llmserve.fleet.record import Instance


@dataclass(frozen=True, slots=True)
class WorkerCounters:
    """The counters of one worker, by their names in `GET /stats`; `pid` tells it from the next one of its model."""

    model: str
    pid: int | None
    counts: Mapping[str, float]


async def ask_for_counters(instances: Iterable[Instance]) -> tuple[WorkerCounters, ...]:
    """Ask all at once; who does not answer within a second, or not in the protocol, is left out."""
    asked = list(instances)
    answers = await asyncio.gather(*(instance.worker.counters() for instance in asked))
    return tuple(
        WorkerCounters(instance.model.name, instance.worker.pid, counts)
        for instance, counts in zip(asked, answers, strict=True)
        if counts is not None
    )
