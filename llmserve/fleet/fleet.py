"""The loaded models: who may use them, and which are loaded, unloaded, evicted and started again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from llmserve.errors import Conflict, LlmserveError, Unavailable
from llmserve.fleet.admission import Admission, close_client_if_over, failed
from llmserve.fleet.demand import Demand
from llmserve.fleet.history import History
from llmserve.fleet.launcher import Launcher, WorkerSource
from llmserve.fleet.lease import Lease
from llmserve.fleet.loading import Loading, Means, Preview
from llmserve.fleet.machine import Machine
from llmserve.fleet.meter import read_counters
from llmserve.fleet.model_rules import ModelRules
from llmserve.fleet.pressure import Pressure, reserving
from llmserve.fleet.record import Instance, ModelRecord, Waiter
from llmserve.fleet.registry import Registry
from llmserve.fleet.status import ModelStatus
from llmserve.fleet.turnover import Turnover
from llmserve.fleet.waiting import set_within
from llmserve.fleet.watchdog import Watchdog
from llmserve.fleet.worker_counters import WorkerCounters, ask_for_counters
from llmserve.openai.adapters import require_adapter, split_adapter
from llmserve.settings import Settings, home_directory
from llmserve.state.database import StateDatabase
from llmserve.types import HardwareInfo, InstalledModel

if TYPE_CHECKING:
    from llmserve.store.store import Store

DEFAULT_KEEP_ALIVE_SECONDS = 300.0
DEFAULT_MAX_QUEUE = 128
DEFAULT_LOAD_TIMEOUT_SECONDS = 300.0
# How long a loaded model is taken to be what the store said.
STORE_LOOKUP_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Fleet:
    """The one owner of everything that is loaded. All methods belong to one event loop's thread.

    State changes only in synchronous methods, so that nothing happens between reading it and acting on it: that is
    why there is no lock. Each loaded model has one task, its *life*: load, serve, end. A load is nobody's in
    particular: a request that gives up leaves the queue, and the load goes on.

    `launcher` makes workers, `machine` (called in a thread, for each plan and each load) tells what is there and free,
    `clock` is the monotonic time in seconds that idle times and back-offs are counted in, `history` keeps what is
    measured.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        launcher: WorkerSource | None = None,
        machine: Callable[[], HardwareInfo] | None = None,
        clock: Callable[[], float] = time.monotonic,
        history: History | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._keep_alive_seconds = _or_default(settings.keep_alive, DEFAULT_KEEP_ALIVE_SECONDS)
        self._max_wait_seconds = settings.max_queue_seconds
        self.rules = ModelRules(settings)
        self._launcher = Launcher(settings) if launcher is None else launcher
        self._registry = Registry()
        machine = Machine(home_directory(settings), settings.vllm_python) if machine is None else machine
        self._pressure = Pressure(self._registry, machine, settings.memory_reserve)
        max_queue = int(_or_default(settings.max_queue, DEFAULT_MAX_QUEUE))
        self._admission = Admission(self._registry, clock, max_queue, settings.parallel)
        means = Means(
            store=store,
            settings=settings,
            launcher=self._launcher,
            machine=reserving(machine, settings.memory_reserve or 0),
            clock=clock,
            load_timeout_seconds=settings.load_timeout or DEFAULT_LOAD_TIMEOUT_SECONDS,
            history=History(StateDatabase.in_home(home_directory(settings))) if history is None else history,
        )
        self._loading = Loading(self._registry, self._admission, self.rules, means)
        self._closing = False
        self._keepers: list[asyncio.Task[None]] = []

    # --- what others ask of it ---

    async def lease(self, model: str, demand: Demand | None = None) -> Lease:
        """A hold on a ready worker of `model`, loading it first if it is not there; release it when done.

        One worker serves a model with all its adapters, of which `model` may name one (`model@adapter`).

        Raises `WrongModelKind` where the model is not of the kind that is asked for; `ModelNotFound` or
        `AdapterNotFound`; `TooManyRequests` when the model's queue is full; `Unavailable` while draining, while a model
        that keeps failing is in its back-off, if models in use leave no room, or when no place is free in the time the
        request may wait;
        `WorkerDied` or `InsufficientStorage` if the load failed; and what `Store.find` and `Store.inspect` raise.
        """
        demand = demand or Demand()
        self._refuse_if_closing()
        name, adapter = split_adapter(model)
        installed = self._loaded(name)
        if installed is None:
            installed = await asyncio.to_thread(self._store.find, name)
            self._refuse_if_closing()
            self._record(installed).found_at = self._clock()
        require_adapter(installed, adapter)
        record = self._record(installed)
        answer = self._admission.ask(record, demand)
        if isinstance(answer, Lease):
            return answer
        if record.life is None:
            self._begin(record, installed)
        return await self._promised(record, answer, demand)

    def status(self) -> tuple[ModelStatus, ...]:
        """Every model that is loading, ready, stopping or failed, by name."""
        now = self._clock()
        statuses = (record.status(now) for record in self._registry)
        return tuple(status for status in statuses if status is not None)

    @property
    def turnover(self) -> Turnover:
        """How often models came and went, kept up to date."""
        return self._registry.turnover

    async def counters(self) -> tuple[WorkerCounters, ...]:
        """What the ready workers have counted; takes a second at most, and is no use that would keep a model loaded."""
        return await ask_for_counters(self._registry.ready())

    async def preview(self, model: str) -> Preview:
        """How `model` would be run if it were loaded on what is free now. Raises as `Loading.preview` does."""
        return await self._loading.preview(split_adapter(model)[0])

    async def stop(self, model: str) -> bool:
        """Unload a model and wait until it is gone. False if it was not loaded; then its back-off is forgotten.

        Raises `Conflict` if requests use it or wait for it, `ModelNotFound` if there is no such model.
        """
        model, _ = split_adapter(model)
        record = self._registry.get(model)
        if record is None:
            installed = await asyncio.to_thread(self._store.find, model)
            record = self._registry.get(installed.name)
        if record is None:
            return False
        life = record.life
        if not self._stop(record) or life is None:
            return False
        await asyncio.wait([life])
        return True

    def sweep(self) -> float | None:
        """Unload what has been idle for long enough; returns the seconds until the next is due, None if none is."""
        now = self._clock()
        due_in: list[float] = []
        for record in self._registry:
            expires_at = record.expires_at()
            if expires_at is None:
                continue
            if expires_at <= now:
                logger.info("unloading %s: idle for %.0f s", record.name, record.keep_alive_seconds)
                self._registry.retire(record.name, "idle")
            else:
                due_in.append(expires_at - now)
        return min(due_in, default=None)

    async def close(self, drain_seconds: float = 30.0) -> None:
        """Refuse new requests, let the running ones end for up to `drain_seconds`, then stop every worker.

        Requests that wait for a load are refused at once. May be called again, during the drain too: with 0 it ends
        the drain.
        """
        self._closing = True
        for record in self._registry:
            self._admission.refuse_all(record, _shutting_down())
            if record.state == "loading":
                self._cancel_load(record)
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                while any(record.in_use for record in self._registry):
                    await self._registry.changed.wait()
        for record in self._registry:
            self._registry.retire(record.name, "shutdown", because="was stopped because the server shut down")
        await self._registry.until_ended(self._registry)
        for keeper in self._keepers:
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)
        await self._registry.until_done()
        await self._launcher.close()

    # --- requests ---

    def _loaded(self, name: str) -> InstalledModel | None:
        """The model of this very name, if it is ready and was in the store a moment ago: the disk need not be asked.

        An alias may have moved meanwhile. The store is asked now and then, since it keeps count of what is used.
        """
        record = self._registry.get(name)
        if record is None or record.state != "ready" or record.instance is None:
            return None
        return record.instance.model if self._clock() - record.found_at < STORE_LOOKUP_SECONDS else None

    def _record(self, model: InstalledModel) -> ModelRecord:
        record = self._registry.get(model.name)
        if record is None:
            keep_alive = _or_default(self.rules.of(model).keep_alive, self._keep_alive_seconds)
            record = self._registry.add(ModelRecord(model.name, keep_alive))
        return record

    async def _promised(self, record: ModelRecord, waiter: Waiter, demand: Demand) -> Lease:
        """The lease that was promised. Raises as `lease` does."""
        limits = [limit for limit in (demand.max_wait_seconds, self._max_wait_seconds) if limit is not None]
        done, _ = await self._wait(record, waiter, min(limits, default=None))
        if not done:
            self._admission.abandon(record, waiter)
            raise self._admission.too_late(record)
        return waiter.result()

    async def _wait(
        self, record: ModelRecord, waiter: Waiter, seconds: float | None
    ) -> tuple[set[Waiter], set[Waiter]]:
        try:
            return await asyncio.wait({waiter}, timeout=seconds)
        except asyncio.CancelledError:
            self._admission.abandon(record, waiter)
            raise

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise _shutting_down()

    # --- the life of a worker ---

    def _begin(self, record: ModelRecord, model: InstalledModel) -> None:
        record.state = "loading"
        record.life = asyncio.create_task(self._live(record, model), name=f"life of {record.name}")
        if not self._keepers:
            self._keepers = [asyncio.create_task(keep) for keep in (self._reap(), self._pressure.run())]

    async def _live(self, record: ModelRecord, model: InstalledModel) -> None:
        """Load, serve, end. Every way out of the load answers those who wait for it."""
        try:
            instance = await self._loading.load(record, model)
            self._now_ready(record, instance)
            self._registry.chore(self._loading.note_load(instance))
            await self._until_death(instance)
            tail = await asyncio.to_thread(instance.worker.log.tail)
            self._now_gone(record, instance, tail)
            self._registry.chore(self._loading.note_run(instance))
        except LlmserveError as error:
            logger.info("cannot load %s: %s", record.name, error.message)
            self._admission.refuse_all(record, error)
        except Exception as error:
            logger.exception("cannot load %s", record.name)
            self._admission.refuse_all(record, error)
        finally:
            self._ended(record, model)

    def _now_ready(self, record: ModelRecord, instance: Instance) -> None:
        record.state = "ready"
        self._registry.turnover.loads[record.name] += 1
        instance.loaded_at = instance.last_used = self._clock()
        logger.info("%s is ready (pid %s): %s", record.name, instance.worker.pid, instance.plan.reason)
        self._admission.admit(record)
        self._registry.announce()
        for companion in self.rules.companions(instance.model):
            self._registry.chore(self._load_companion(companion))

    async def _load_companion(self, name: str) -> None:
        """Load what the settings want loaded beside another model; a failure is its own."""
        try:
            (await self.lease(name)).release()
        except LlmserveError as error:
            logger.warning("cannot load %s beside its group: %s", name, error.message)

    async def _until_death(self, instance: Instance) -> None:
        watchdog = Watchdog(instance.worker, lambda: bool(instance.leases))
        companions = {
            asyncio.create_task(watchdog.run()),
            asyncio.create_task(read_counters(instance, self._clock)),
        }
        try:
            await instance.worker.died.wait()
        finally:
            for companion in companions:
                companion.cancel()
            await asyncio.wait(companions)

    def _now_gone(self, record: ModelRecord, instance: Instance, log_tail: str) -> None:
        if record.state == "stopping":
            logger.info("%s is unloaded", record.name)
            return
        reason = instance.worker.reason().message
        record.note_failure(reason, log_tail)
        record.breaker(instance.plan).crashed(self._clock(), reason)
        if record.close_until(self._clock()):
            self._admission.refuse_all(record, failed(record, record.retry_at - self._clock()))

    def _ended(self, record: ModelRecord, model: InstalledModel) -> None:
        """The end of a life: begin the next one if somebody came meanwhile."""
        instance, record.instance, record.life = record.instance, None, None
        if instance is not None:
            close_client_if_over(self._registry, instance)
        if self._closing:
            self._admission.refuse_all(record, _shutting_down())
        if len(record.waiters):
            self._begin(record, model)
        elif record.state != "failed":
            record.state = "unloaded"
        self._registry.announce()

    def _stop(self, record: ModelRecord) -> bool:
        """Begin to unload on request; whether there was something to unload. Raises `Conflict`."""
        if record.state == "failed":
            record.state, record.retry_at = "unloaded", 0.0
            for breaker in record.breakers.values():
                breaker.reset()
        if record.life is None:
            return False
        if record.in_use:
            raise Conflict(f"`{record.name}` is in use", hint="try again when its requests have ended")
        if record.state == "loading":
            self._cancel_load(record)
        else:
            self._registry.retire(record.name, "asked")
        return True

    @staticmethod
    def _cancel_load(record: ModelRecord) -> None:
        if record.life is not None:
            record.state = "stopping"
            record.life.cancel()

    async def _reap(self) -> None:
        """Unload idle models when they are due, for as long as the fleet exists."""
        while True:
            changed = self._registry.changed
            due_in = self.sweep()
            await set_within(changed, due_in)


def _or_default(value: float | None, default: float) -> float:
    return default if value is None else value


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down", retry_after=5.0)
