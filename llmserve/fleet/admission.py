"""Who gets a lease on a model, and when: the one place where leases are granted, promised, refused and given back."""

from __future__ import annotations

import copy
from collections.abc import Callable

from llmserve.errors import LlmserveError, TooManyRequests, Unavailable, WrongModelKind
from llmserve.fleet.demand import Demand
from llmserve.fleet.lease import Lease
from llmserve.fleet.record import Instance, ModelRecord, Waiter
from llmserve.fleet.registry import Registry
from llmserve.types import ModelKind

# What is said to who comes too early, as long as no request has shown how long one takes.
UNKNOWN_WAIT_SECONDS = 1.0


class Admission:
    """Grants the places of ready workers, to those who wait in the order of a `FairQueue`."""

    def __init__(
        self, registry: Registry, clock: Callable[[], float], max_queue: int, assumed_parallel: int | None
    ) -> None:
        """`max_queue`: requests that may wait for a model beyond those it computes, which are `assumed_parallel` (None:
        one) as long as there is no plan."""
        self._registry = registry
        self._clock = clock
        self._max_queue = max_queue
        self._assumed_parallel = assumed_parallel or 1

    def ask(self, record: ModelRecord, demand: Demand) -> Lease | Waiter:
        """A lease, or the promise of one. Raises `WrongModelKind`, `TooManyRequests` or `Unavailable`."""
        self._refuse_if_failed(record)
        instance = record.instance
        if instance is not None and demand.kind not in (None, instance.plan.kind):
            raise WrongModelKind.of(record.name, instance.plan.kind)
        if demand.keep_alive_seconds is not None:
            record.keep_alive_seconds = demand.keep_alive_seconds
        is_ready = record.state == "ready" and instance is not None and instance.usable
        has_place = not demand.computes or (instance is not None and instance.has_place(background=demand.background))
        if is_ready and instance is not None and has_place:
            return self._grant(record, instance, demand)
        waiter = Waiter(demand)
        if demand.kind != "embed":
            # A document makes hundreds of embedding requests at once. They are short and computed together, and
            # clients do not ask again: so they wait, as many as there are connections.
            self._make_way(record, waiter)
        self._refuse_if_too_late(record, demand)
        record.waiters.add(waiter)
        return waiter

    def admit(self, record: ModelRecord) -> None:
        """Grant the free places of a ready model to those who wait."""
        instance = record.instance
        while record.state == "ready" and instance is not None and instance.usable and len(record.waiters):
            if not instance.has_place(background=not record.waiters.in_foreground):
                return
            waiter = record.waiters.pop()
            if not waiter.done():
                waiter.set_result(self._grant(record, instance, waiter.demand))

    def abandon(self, record: ModelRecord, waiter: Waiter) -> None:
        """The request behind `waiter` was cancelled, perhaps after its answer had been decided."""
        if not record.waiters.remove(waiter) and not waiter.cancelled() and waiter.exception() is None:
            waiter.result().release()

    def too_late(self, record: ModelRecord) -> Unavailable:
        """What to tell a request that has waited as long as it would."""
        return Unavailable(
            f"`{record.name}` has no free place in the time this request may wait",
            code="queue_timeout",
            retry_after=record.wait_seconds() or UNKNOWN_WAIT_SECONDS,
        )

    def refuse_all(self, record: ModelRecord, error: BaseException) -> None:
        """Answer everybody who waits with `error`."""
        while len(record.waiters):
            waiter = record.waiters.pop()
            if not waiter.done():
                # Each its own where it can be copied: raising one adds to its traceback.
                waiter.set_exception(copy.copy(error) if isinstance(error, LlmserveError) else error)

    def refuse_other_kinds(self, record: ModelRecord, kind: ModelKind) -> None:
        """Answer those who wait for a model of another kind than this; raises `WrongModelKind` if nobody else does."""
        others = [waiter for waiter in record.waiters if waiter.demand.kind not in (None, kind)]
        for waiter in others:
            record.waiters.remove(waiter)
            if not waiter.done():
                waiter.set_exception(WrongModelKind.of(record.name, kind))
        if others and not len(record.waiters):
            raise WrongModelKind.of(record.name, kind)

    def _refuse_if_failed(self, record: ModelRecord) -> None:
        remaining = record.retry_at - self._clock()
        if record.state == "failed" and remaining > 0:
            raise failed(record, remaining)

    def _make_way(self, record: ModelRecord, newcomer: Waiter) -> None:
        """Raise `TooManyRequests` for `newcomer` where the queue is full, or for one of whom crowds it."""
        instance = record.instance
        parallel = instance.plan.parallel if instance is not None else self._assumed_parallel
        if record.outstanding < parallel + self._max_queue:
            return
        wait = self._time_to_empty(record)
        full = TooManyRequests(f"the queue of `{record.name}` is full ({self._max_queue} requests)", retry_after=wait)
        displaced = record.waiters.crowder(newcomer)
        if displaced is None:
            raise full
        record.waiters.remove(displaced)
        if not displaced.done():
            displaced.set_exception(full)

    def _time_to_empty(self, record: ModelRecord) -> float:
        """How long until the queue, as it is, has been served."""
        places = record.instance.places if record.instance is not None else None
        return record.times.wait_seconds(len(record.waiters), places or 1) or UNKNOWN_WAIT_SECONDS

    def _refuse_if_too_late(self, record: ModelRecord, demand: Demand) -> None:
        """Refuse at once who would in all likelihood wait in vain."""
        wait = record.wait_seconds()
        if demand.max_wait_seconds is not None and wait is not None and wait > demand.max_wait_seconds:
            raise self.too_late(record)

    def _grant(self, record: ModelRecord, instance: Instance, demand: Demand) -> Lease:
        granted_at = self._clock()

        def give_back(lease: Lease) -> None:
            instance.leases.discard(lease)
            instance.background.discard(lease)
            if instance.usable:
                if demand.computes:
                    record.times.note(self._clock() - granted_at)
                record.breaker(instance.plan).succeeded()
            self._place_is_free(record, instance)

        lease = Lease(
            instance.model,
            instance.plan,
            instance.worker,
            give_back,
            fallback=instance.fallback,
            takes_place=demand.computes,
        )
        instance.leases.add(lease)
        if demand.background and demand.computes:
            instance.background.add(lease)
        return lease

    def _place_is_free(self, record: ModelRecord, instance: Instance) -> None:
        if record.instance is instance:
            self.admit(record)
        if not instance.leases:
            instance.last_used = self._clock()
            close_client_if_over(self._registry, instance)
            self._registry.announce()


def close_client_if_over(registry: Registry, instance: Instance) -> None:
    """Close the connections to a worker that has ended. Not before the last lease ends: what a dead worker had still
    sent may be read through it."""
    if not instance.leases and instance.worker.exit_code is not None:
        registry.chore(instance.worker.client.aclose())


def failed(record: ModelRecord, remaining_seconds: float) -> Unavailable:
    """What to tell who asks for a model while it is not tried again."""
    failures = max((breaker.failures for breaker in record.breakers.values()), default=0)
    return Unavailable(
        f"`{record.name}` failed {failures} times in a row: {record.last_error}",
        hint="`llmserve ps` shows the last lines of the worker's log",
        retry_after=remaining_seconds,
    )
