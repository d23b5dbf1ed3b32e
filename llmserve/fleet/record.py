"""What the fleet remembers of one model, loaded or not. Only `Fleet` changes a record."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from llmserve.fleet.lease import Lease
from llmserve.fleet.status import ModelStatus, State
from llmserve.fleet.worker import Worker
from llmserve.planning.eviction import LoadedModel
from llmserve.types import EnginePlan, InstalledModel, ModelKind

FIRST_BACKOFF_SECONDS = 5.0
LONGEST_BACKOFF_SECONDS = 300.0
FAILURES_BEFORE_BACKOFF = 2


class Waiter(asyncio.Future[Lease]):
    """The promise of a lease to one request, which can use a model of `kind` only (None: any)."""

    def __init__(self, kind: ModelKind | None) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.kind = kind


@dataclass(slots=True, eq=False)
class Instance:
    """One worker from its start to its end, and the leases on it. Times are the fleet's clock."""

    model: InstalledModel
    plan: EnginePlan
    worker: Worker
    loaded_at: float | None = None
    last_used: float = 0.0
    leases: set[Lease] = field(default_factory=set)

    def bytes_on(self, device: str) -> int:
        return sum(memory.total for memory in self.plan.memory if memory.device == device)

    def on_device(self, device: str) -> LoadedModel:
        """This instance as the eviction decision sees it."""
        return LoadedModel(self.model.name, self.bytes_on(device), len(self.leases), self.last_used)


@dataclass(slots=True, eq=False)
class ModelRecord:
    """One model's state.

        state      instance            life (task)   waiters
        unloaded   None                None          none
        loading    None, then unready  runs          whoever asks
        ready      ready               runs          none: they get leases at once
        stopping   ready or None       runs          whoever asks; they get the next load
        failed     None                None          none: refused until `retry_at`

    `failures` counts loads that failed in a row.
    """

    name: str
    state: Literal["unloaded"] | State = "unloaded"
    instance: Instance | None = None
    life: asyncio.Task[None] | None = None
    waiters: deque[Waiter] = field(default_factory=deque)
    failures: int = 0
    retry_at: float = 0.0
    restarts: int = 0
    crashed: bool = False
    last_error: str | None = None
    log_tail: str | None = None

    @property
    def in_use(self) -> bool:
        return bool(self.waiters) or (self.instance is not None and bool(self.instance.leases))

    @property
    def outstanding(self) -> int:
        """Requests that hold a lease on the current instance or wait for one."""
        return len(self.waiters) + (len(self.instance.leases) if self.instance is not None else 0)

    def count_restart(self) -> None:
        """A worker is being started: it counts if it replaces one that failed."""
        self.restarts += self.crashed
        self.crashed = False

    def backoff_seconds(self) -> float | None:
        """How long to refuse the model after the latest failure; None while it may be tried again at once."""
        doublings = self.failures - FAILURES_BEFORE_BACKOFF
        if doublings < 0:
            return None
        return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(doublings, 16), LONGEST_BACKOFF_SECONDS)

    def expires_at(self, keep_alive_seconds: float) -> float | None:
        """When an idle model is due to be unloaded; None if it is not idle or stays for ever (negative)."""
        if self.state != "ready" or self.instance is None or self.in_use or keep_alive_seconds < 0:
            return None
        return self.instance.last_used + keep_alive_seconds

    def status(self, now: float, keep_alive_seconds: float) -> ModelStatus | None:
        """What to show of it at the time `now`; None for a model that is not there."""
        if self.state == "unloaded":
            return None
        instance = self.instance
        expires_at = self.expires_at(keep_alive_seconds)
        ready = instance if self.state == "ready" else None
        return ModelStatus(
            name=self.name,
            state=self.state,
            progress=instance.worker.progress if instance is not None else None,
            pid=instance.worker.pid if instance is not None else None,
            plan=instance.plan if instance is not None else None,
            leases=len(instance.leases) if instance is not None else 0,
            waiting=len(self.waiters),
            loaded_seconds=now - ready.loaded_at if ready is not None and ready.loaded_at is not None else None,
            idle_seconds=now - ready.last_used if ready is not None and not ready.leases else None,
            unload_in_seconds=max(0.0, expires_at - now) if expires_at is not None else None,
            retry_in_seconds=max(0.0, self.retry_at - now) if self.state == "failed" else None,
            restarts=self.restarts,
            last_error=self.last_error,
            log_tail=self.log_tail,
        )
