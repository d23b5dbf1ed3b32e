"""What the fleet says about a model that it has loaded, is loading, or could not load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmserve.types import EnginePlan

State = Literal["loading", "ready", "stopping", "failed"]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model at one moment.

    progress: 0 to 1 while loading, None when not known. pid: of the worker. leases: requests on it. waiting: requests
    that wait for the load. loaded_seconds: how long it has been ready. idle_seconds: since the last lease ended; None
    with one open. unload_in_seconds: when it goes if nobody asks; None for never or not now. retry_in_seconds: until a
    failed model may be asked for again. restarts: how often a worker had to be replaced. last_error: the latest
    failure in a sentence, and log_tail the last lines the worker wrote then; both stay when the model has recovered.
    wait_seconds: how long the next request would wait for a place, by the measured ones; None where one is free or not
    known. fallback: why the model runs otherwise than was planned first. pinned: not unloaded to make room. phase: what
    a loading worker is doing, in words. tokens_per_second: what it writes (or embeds), on average over the last ten
    seconds; None while it is idle, or not yet known.
    """

    name: str
    state: State
    progress: float | None
    pid: int | None
    plan: EnginePlan | None
    leases: int
    waiting: int
    loaded_seconds: float | None
    idle_seconds: float | None
    unload_in_seconds: float | None
    retry_in_seconds: float | None
    restarts: int
    last_error: str | None
    log_tail: str | None
    wait_seconds: float | None = None
    fallback: str | None = None
    pinned: bool = False
    phase: str | None = None
    tokens_per_second: float | None = None
