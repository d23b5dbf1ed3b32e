"""What the fleet remembers of one model, loaded or not. Only the fleet's own classes change a record."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Literal

from llmserve.fleet.breaker import Breaker
from llmserve.fleet.demand import Demand
from llmserve.fleet.fair_queue import FairQueue
from llmserve.fleet.fallback import option
from llmserve.fleet.lease import Lease
from llmserve.fleet.service_times import ServiceTimes
from llmserve.fleet.speed import Speed
from llmserve.fleet.status import ModelStatus, State
from llmserve.fleet.worker import Worker
from llmserve.planning.eviction import LoadedModel
from llmserve.state.database import Key
from llmserve.types import EnginePlan, InstalledModel

logger = logging.getLogger(__name__)


class Waiter(asyncio.Future[Lease]):
    """The promise of a lease to one request."""

    def __init__(self, demand: Demand) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.demand = demand

    @property
    def client(self) -> str:
        return self.demand.client

    @property
    def background(self) -> bool:
        return self.demand.background


def places_of(plan: EnginePlan) -> int:
    """How many requests a worker is given at once.

    What runs, and a few that wait in the worker, so that no place in it is empty while the next one comes. The rest
    waits here, where turns are fair.
    """
    return plan.parallel + max(1, plan.parallel // 4)


@dataclass(slots=True, eq=False)
class Instance:
    """One worker from its start to its end, and the leases on it. Times are the fleet's clock.

    background: those of the leases that requests in the background hold.
    fallback: why it runs otherwise than the first plan said, None if it does not. load_seconds: what it took to be
    ready, and resident_bytes the most RAM it held until then. pinned: it is not unloaded to make room. key: what is
    measured of it is kept under this.
    """

    model: InstalledModel
    plan: EnginePlan
    worker: Worker
    loaded_at: float | None = None
    last_used: float = 0.0
    leases: set[Lease] = field(default_factory=set)
    background: set[Lease] = field(default_factory=set)
    fallback: str | None = None
    load_seconds: float = 0.0
    resident_bytes: int | None = None
    pinned: bool = False
    key: Key | None = None
    speed: Speed = field(init=False)

    def __post_init__(self) -> None:
        self.speed = Speed("prompt_tokens" if self.plan.kind == "embed" else "generated_tokens")

    @property
    def usable(self) -> bool:
        return not self.worker.died.is_set() and not self.worker.condemned

    @property
    def places(self) -> int | None:
        """How many requests the worker is given at once; None for as many as there are.

        Embedding requests are short and computed together, as many as there are.
        """
        return None if self.plan.kind == "embed" else places_of(self.plan)

    def has_place(self, *, background: bool = False) -> bool:
        """Whether one more request may have a place.

        Of what is computed at once, requests in the background leave a quarter free, so that who comes next is computed
        at once; and while others are computed they have no more than a quarter, since every sequence slows all down.
        """
        if self.places is None:
            return True
        taken = sum(lease.takes_place for lease in self.leases)
        if not background:
            return taken < self.places
        quarter = max(1, self.plan.parallel // 4)
        others = taken - len(self.background)
        return taken < max(1, self.plan.parallel - quarter) and (not others or len(self.background) < quarter)

    def bytes_on(self, device: str) -> int:
        return sum(memory.total for memory in self.plan.memory if memory.device == device)

    def on_device(self, device: str) -> LoadedModel:
        """This instance as the eviction decision sees it."""
        return LoadedModel(
            self.model.name, self.bytes_on(device), len(self.leases), self.last_used, self.load_seconds, self.pinned
        )


@dataclass(slots=True, eq=False)
class ModelRecord:
    """One model's state.

        state      instance            life (task)   waiters
        unloaded   None                None          none
        loading    None, then unready  runs          whoever asks
        ready      ready               runs          whoever finds no place
        stopping   ready or None       runs          whoever asks; they get the next load
        failed     None                None          none: refused until no breaker is open

    keep_alive_seconds: how long it stays when idle, negative for ever. found_at: when the store was last asked for it.
    """

    name: str
    keep_alive_seconds: float = 0.0
    state: Literal["unloaded"] | State = "unloaded"
    instance: Instance | None = None
    life: asyncio.Task[None] | None = None
    waiters: FairQueue[Waiter] = field(default_factory=FairQueue)
    times: ServiceTimes = field(default_factory=ServiceTimes)
    breakers: dict[str, Breaker] = field(default_factory=dict)
    retry_at: float = 0.0
    found_at: float = float("-inf")
    restarts: int = 0
    crashed: bool = False
    last_error: str | None = None
    log_tail: str | None = None

    @property
    def in_use(self) -> bool:
        return bool(len(self.waiters)) or (self.instance is not None and bool(self.instance.leases))

    @property
    def outstanding(self) -> int:
        """Requests that hold a lease on the current instance or wait for one."""
        return len(self.waiters) + (len(self.instance.leases) if self.instance is not None else 0)

    def breaker(self, plan: EnginePlan) -> Breaker:
        """The breaker of the way of running it that `plan` takes."""
        return self.breakers.setdefault(option(plan), Breaker())

    def note_failure(self, error: str, log_tail: str) -> None:
        """A worker was lost, for a reason of its own."""
        self.crashed = True
        self.last_error = error
        self.log_tail = log_tail or None
        logger.error("%s; its last lines: %r", error, log_tail)

    def close_until(self, now: float) -> bool:
        """Fail the model while every way of running it that was tried is in its back-off; whether that is so."""
        opens_at = min((breaker.open_until for breaker in self.breakers.values()), default=0.0)
        if opens_at <= now:
            return False
        self.state, self.retry_at = "failed", opens_at
        return True

    def count_restart(self) -> None:
        """A worker is being started: it counts if it replaces one that failed."""
        self.restarts += self.crashed
        self.crashed = False

    def wait_seconds(self) -> float | None:
        """How long the next request would wait, by what the latest ones took; None if that is not known.

        One in the background waits longer.
        """
        instance = self.instance
        if instance is None or instance.has_place() or instance.places is None:
            return None
        return self.times.wait_seconds(self.waiters.in_foreground, instance.places)

    def expires_at(self) -> float | None:
        """When an idle model is due to be unloaded; None if it is not idle or stays for ever."""
        if self.state != "ready" or self.instance is None or self.in_use or self.keep_alive_seconds < 0:
            return None
        return self.instance.last_used + self.keep_alive_seconds

    def status(self, now: float) -> ModelStatus | None:
        """What to show of it at the time `now`; None for a model that is not there."""
        if self.state == "unloaded":
            return None
        instance = self.instance
        expires_at = self.expires_at()
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
            wait_seconds=self.wait_seconds(),
            fallback=instance.fallback if instance is not None else None,
            pinned=instance is not None and instance.pinned,
            phase=instance.worker.phase if instance is not None else None,
            tokens_per_second=ready.speed.tokens_per_second(now) if ready is not None else None,
        )
