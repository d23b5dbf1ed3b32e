"""The loaded models: who may use them, and which are loaded, unloaded, evicted and started again."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llmserve.errors import Conflict, LlmserveError, TooManyRequests, Unavailable, WorkerDied, WrongModelKind
from llmserve.fleet.launcher import Launch, Launcher
from llmserve.fleet.lease import Lease
from llmserve.fleet.machine import Machine
from llmserve.fleet.record import Instance, ModelRecord, Waiter
from llmserve.fleet.room import find_room, out_of_memory
from llmserve.fleet.status import ModelStatus
from llmserve.fleet.waiting import set_within
from llmserve.planning.plan import plan as make_plan
from llmserve.settings import Settings, home_directory
from llmserve.types import EnginePlan, HardwareInfo, InstalledModel, ModelInfo, ModelKind

if TYPE_CHECKING:
    from llmserve.store.store import Store

DEFAULT_KEEP_ALIVE_SECONDS = 300.0
DEFAULT_MAX_QUEUE = 128
DEFAULT_LOAD_TIMEOUT_SECONDS = 300.0
# How long a load waits for models in use to become free before its requests are told to come again.
ROOM_TIMEOUT_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Fleet:
    """The one owner of everything that is loaded. All methods belong to one event loop's thread.

    State changes only in synchronous methods, so that nothing happens between reading it and acting on it: that is
    why there is no lock. Each loaded model has one task, its *life*: load, serve, end. A load is nobody's in
    particular: a request that gives up leaves the queue, and the load goes on.

    `launch` says how to start a worker, `machine` (called in a thread, once for each plan) what is there and free,
    `clock` is the monotonic time in seconds that idle times and back-offs are counted in.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        launch: Launch | None = None,
        machine: Callable[[], HardwareInfo] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._launcher = Launcher(settings, launch)
        self._machine = Machine(home_directory(settings)) if machine is None else machine
        self._clock = clock
        self._keep_alive = DEFAULT_KEEP_ALIVE_SECONDS if settings.keep_alive is None else settings.keep_alive
        self._max_queue = DEFAULT_MAX_QUEUE if settings.max_queue is None else settings.max_queue
        self._load_timeout = settings.load_timeout or DEFAULT_LOAD_TIMEOUT_SECONDS
        self._records: dict[str, ModelRecord] = {}
        self._load_turn = asyncio.Semaphore(1)
        self._changed = asyncio.Event()
        self._closing = False
        self._reaper: asyncio.Task[None] | None = None
        self._chores: set[asyncio.Task[Any]] = set()

    # --- what others ask of it ---

    async def lease(self, model: str, kind: ModelKind | None = None) -> Lease:
        """A hold on a ready worker of `model`, loading it first if it is not there; release it when done.

        `kind` is what the request can use: a model of another kind is not loaded for it. Raises `WrongModelKind` then;
        `ModelNotFound`; `TooManyRequests` when the model's queue is full; `Unavailable` while draining, while
        a model that failed twice in a row is in its back-off, or if models in use leave no room; `WorkerDied` or
        `InsufficientStorage` if the load failed; and what `Store.find` and `Store.inspect` raise.
        """
        self._refuse_if_closing()
        installed = await asyncio.to_thread(self._store.find, model)
        answer = self._request(installed, kind)
        if isinstance(answer, Lease):
            return answer
        try:
            return await answer
        except asyncio.CancelledError:
            self._abandon(self._records[installed.name], answer)
            raise

    def status(self) -> tuple[ModelStatus, ...]:
        """Every model that is loading, ready, stopping or failed, by name."""
        now = self._clock()
        statuses = (self._records[name].status(now, self._keep_alive) for name in sorted(self._records))
        return tuple(status for status in statuses if status is not None)

    async def stop(self, model: str) -> bool:
        """Unload a model and wait until it is gone. False if it was not loaded; then its back-off is forgotten.

        Raises `Conflict` if requests use it or wait for it, `ModelNotFound` if there is no such model.
        """
        record = self._records.get(model)
        if record is None:
            installed = await asyncio.to_thread(self._store.find, model)
            record = self._records.get(installed.name)
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
        for record in self._records.values():
            expires_at = record.expires_at(self._keep_alive)
            if expires_at is None:
                continue
            if expires_at <= now:
                logger.info("unloading %s: idle for %.0f s", record.name, self._keep_alive)
                self._retire(record)
            else:
                due_in.append(expires_at - now)
        return min(due_in, default=None)

    async def close(self, drain_seconds: float = 30.0) -> None:
        """Refuse new requests, let the running ones end for up to `drain_seconds`, then stop every worker.

        Requests that wait for a load are refused at once. May be called again, during the drain too: with 0 it ends
        the drain.
        """
        self._closing = True
        for record in self._records.values():
            self._refuse_waiters(record, _shutting_down())
            if record.state == "loading":
                self._cancel_load(record)
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                while any(record.in_use for record in self._records.values()):
                    await self._changed.wait()
        for record in self._records.values():
            if record.state == "ready":
                self._retire(record, because="was stopped because the server shut down")
        await self._until_ended(record for record in self._records.values())
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.wait([self._reaper])
        while self._chores:
            await asyncio.wait(self._chores)
        await self._launcher.close()

    # --- requests ---

    def _request(self, model: InstalledModel, kind: ModelKind | None) -> Lease | Waiter:
        """A lease, or the promise of one when the load that this joins or begins is done. Raises as `lease` does."""
        self._refuse_if_closing()
        record = self._records.setdefault(model.name, ModelRecord(model.name))
        self._refuse_if_failed(record)
        instance = record.instance
        if instance is not None and kind not in (None, instance.plan.kind):
            raise WrongModelKind.of(record.name, instance.plan.kind)
        if kind != "embed":
            # A document makes hundreds of embedding requests at once. They are short and computed together, and
            # clients do not ask again: so they wait, as many as there are connections.
            self._refuse_if_full(record)
        if record.state == "ready" and instance is not None and not instance.worker.died.is_set():
            return self._grant(instance)
        waiter = Waiter(kind)
        record.waiters.append(waiter)
        if record.life is None:
            self._begin(record, model)
        return waiter

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise _shutting_down()

    def _refuse_if_failed(self, record: ModelRecord) -> None:
        remaining = record.retry_at - self._clock()
        if record.state == "failed" and remaining > 0:
            raise Unavailable(
                f"`{record.name}` could not be loaded {record.failures} times in a row: {record.last_error}",
                hint="`llmserve ps` shows the last lines of the worker's log",
                retry_after=remaining,
            )

    def _refuse_if_full(self, record: ModelRecord) -> None:
        planned = record.instance.plan.parallel if record.instance is not None else self._settings.parallel
        if record.outstanding >= (planned or 1) + self._max_queue:
            raise TooManyRequests(f"the queue of `{record.name}` is full ({self._max_queue} requests)", retry_after=1.0)

    def _grant(self, instance: Instance) -> Lease:
        def give_back(lease: Lease) -> None:
            self._release(instance, lease)

        lease = Lease(instance.model, instance.plan, instance.worker, give_back)
        instance.leases.add(lease)
        return lease

    def _release(self, instance: Instance, lease: Lease) -> None:
        instance.leases.discard(lease)
        if not instance.leases:
            instance.last_used = self._clock()
            self._close_client_if_over(instance)
            self._announce()

    def _abandon(self, record: ModelRecord, waiter: Waiter) -> None:
        """The request behind `waiter` was cancelled, perhaps after its answer had been decided."""
        if waiter in record.waiters:
            record.waiters.remove(waiter)
        elif not waiter.cancelled() and waiter.exception() is None:
            waiter.result().release()

    @staticmethod
    def _refuse_waiters(record: ModelRecord, error: BaseException) -> None:
        while record.waiters:
            waiter = record.waiters.popleft()
            if not waiter.done():
                # Each its own where it can be copied: raising one adds to its traceback.
                waiter.set_exception(copy.copy(error) if isinstance(error, LlmserveError) else error)

    @staticmethod
    def _refuse_other_kinds(record: ModelRecord, kind: ModelKind) -> None:
        """Answer those who wait for a model of another kind than this; raises `WrongModelKind` if nobody else does."""
        others = [waiter for waiter in record.waiters if waiter.kind not in (None, kind)]
        for waiter in others:
            record.waiters.remove(waiter)
            if not waiter.done():
                waiter.set_exception(WrongModelKind.of(record.name, kind))
        if others and not record.waiters:
            raise WrongModelKind.of(record.name, kind)

    # --- the life of a worker ---

    def _begin(self, record: ModelRecord, model: InstalledModel) -> None:
        record.state = "loading"
        record.life = asyncio.create_task(self._live(record, model), name=f"life of {record.name}")
        if self._reaper is None:
            self._reaper = asyncio.create_task(self._reap(), name="idle models")

    async def _live(self, record: ModelRecord, model: InstalledModel) -> None:
        """Load, serve, end. Every way out of the load answers those who wait for it."""
        try:
            instance = await self._load(record, model)
            self._now_ready(record, instance)
            await instance.worker.died.wait()
            tail = await asyncio.to_thread(instance.worker.log.tail)
            self._now_gone(record, instance, tail)
        except LlmserveError as error:
            logger.info("cannot load %s: %s", record.name, error.message)
            self._refuse_waiters(record, error)
        except Exception as error:
            logger.exception("cannot load %s", record.name)
            self._refuse_waiters(record, error)
        finally:
            self._ended(record, model)

    def _now_ready(self, record: ModelRecord, instance: Instance) -> None:
        record.state = "ready"
        record.failures = 0
        instance.loaded_at = instance.last_used = self._clock()
        logger.info("%s is ready (pid %s): %s", record.name, instance.worker.pid, instance.plan.reason)
        while record.waiters:
            waiter = record.waiters.popleft()
            if not waiter.done():
                waiter.set_result(self._grant(instance))
        self._announce()

    def _now_gone(self, record: ModelRecord, instance: Instance, log_tail: str) -> None:
        if record.state == "stopping":
            logger.info("%s is unloaded", record.name)
            return
        self._note_failure(record, instance.worker.reason(), log_tail)

    def _note_failure(self, record: ModelRecord, error: LlmserveError, log_tail: str) -> None:
        record.crashed = True
        record.last_error = error.message
        record.log_tail = log_tail or None
        logger.error("%s; its last lines: %r", error.message, log_tail)

    def _load_failed(self, record: ModelRecord, error: LlmserveError, log_tail: str) -> None:
        self._note_failure(record, error, log_tail)
        record.failures += 1
        backoff = record.backoff_seconds()
        if backoff is not None:
            record.state = "failed"
            record.retry_at = self._clock() + backoff

    def _ended(self, record: ModelRecord, model: InstalledModel) -> None:
        """The end of a life: begin the next one if somebody came meanwhile."""
        instance, record.instance, record.life = record.instance, None, None
        if instance is not None:
            self._close_client_if_over(instance)
        if self._closing:
            self._refuse_waiters(record, _shutting_down())
        if record.waiters:
            self._begin(record, model)
        elif record.state != "failed":
            record.state = "unloaded"
        self._announce()

    def _stop(self, record: ModelRecord) -> bool:
        """Begin to unload on request; whether there was something to unload. Raises `Conflict`."""
        if record.state == "failed":
            record.state, record.failures, record.retry_at = "unloaded", 0, 0.0
        if record.life is None:
            return False
        if record.in_use:
            raise Conflict(f"`{record.name}` is in use", hint="try again when its requests have ended")
        if record.state == "loading":
            self._cancel_load(record)
        elif record.state == "ready":
            self._retire(record)
        return True

    @staticmethod
    def _cancel_load(record: ModelRecord) -> None:
        if record.life is not None:
            record.state = "stopping"
            record.life.cancel()

    def _retire(self, record: ModelRecord, *, because: str = "was stopped") -> None:
        """Begin to unload a ready model; its life ends with its worker."""
        if record.instance is None:
            return
        record.state = "stopping"
        self._chore(record.instance.worker.stop(because=because))

    def _close_client_if_over(self, instance: Instance) -> None:
        # Not before the last lease ends: what a dead worker had still sent may be read through it.
        if not instance.leases and instance.worker.exit_code is not None:
            self._chore(instance.worker.client.aclose())

    # --- loading ---

    async def _load(self, record: ModelRecord, model: InstalledModel) -> Instance:
        """Plan, make room and start. One load at a time, but one that waits for room lets the others pass."""
        info = await asyncio.to_thread(self._store.inspect, model.name)
        self._refuse_other_kinds(record, info.kind)
        deadline = self._clock() + ROOM_TIMEOUT_SECONDS
        while True:
            changed = self._changed
            async with self._load_turn:
                plan = await self._plan_with_room(info)
                if plan is not None:
                    return await self._start(record, model, plan)
            remaining = deadline - self._clock()
            if remaining <= 0:
                raise Unavailable(f"no memory for `{record.name}` while other models are in use", retry_after=5.0)
            await set_within(changed, remaining)

    async def _plan_with_room(self, info: ModelInfo) -> EnginePlan | None:
        """A plan for which idle models have made what room they could; None if those in use must end first."""
        while True:
            await self._until_ended(record for record in self._records.values() if record.state == "stopping")
            hardware = await asyncio.to_thread(self._machine)
            plan = make_plan(hardware, info, self._settings)
            ready = [record for record in self._records.values() if record.state == "ready"]
            room = find_room(plan, [record.instance for record in ready if record.instance is not None])
            if not room.victims:
                return None if room.blocked else plan
            for record in ready:
                if record.name in room.victims:
                    logger.info("unloading %s to make room", record.name)
                    self._retire(record)

    async def _start(self, record: ModelRecord, model: InstalledModel, plan: EnginePlan) -> Instance:
        """Start a worker and wait until it is ready. Raises `WorkerDied` or `InsufficientStorage`."""
        record.count_restart()
        worker = await self._launcher.worker(plan, model)
        instance = record.instance = Instance(model, plan, worker)
        try:
            await worker.start()
            await worker.ready(self._load_timeout)
        except WorkerDied as error:
            await worker.stop(0)  # one that is not ready has nothing to finish
            tail = await asyncio.to_thread(worker.log.tail)
            if worker.killed and not plan.fits:
                shortage = out_of_memory(plan, model.name)
                self._load_failed(record, shortage, tail)
                raise shortage from error
            self._load_failed(record, error, tail)
            raise
        except asyncio.CancelledError:
            await worker.stop(0)
            raise
        return instance

    # --- waiting and chores ---

    async def _reap(self) -> None:
        """Unload idle models when they are due, for as long as the fleet exists."""
        while True:
            changed = self._changed
            due_in = self.sweep()
            await set_within(changed, due_in)

    @staticmethod
    async def _until_ended(records: Iterable[ModelRecord]) -> None:
        """Wait for the present lives of these models to end."""
        lives = [record.life for record in records if record.life is not None]
        if lives:
            await asyncio.wait(lives)

    def _announce(self) -> None:
        """A model became ready, idle or was unloaded: wake whoever waits for that.

        Whoever does takes the event first, then looks at the state, then waits: so no change is missed.
        """
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down", retry_after=5.0)
