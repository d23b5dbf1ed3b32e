"""From a model that somebody wants to a worker that is ready: plan, make room, start, and start otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmserve.errors import LlmserveError, Unavailable, WorkerDied
from llmserve.fleet.admission import Admission, close_client_if_over, failed
from llmserve.fleet.fallback import Wish, described
from llmserve.fleet.history import History
from llmserve.fleet.launcher import WorkerSource
from llmserve.fleet.model_rules import ModelRules
from llmserve.fleet.record import Instance, ModelRecord
from llmserve.fleet.registry import Registry
from llmserve.fleet.room import find_room, no_room_beside, out_of_memory
from llmserve.fleet.waiting import set_within
from llmserve.planning.advice import what_would_change
from llmserve.planning.measurements import Knowledge
from llmserve.planning.plan import plan as make_plan
from llmserve.planning.retry import shrink
from llmserve.settings import Settings
from llmserve.state.database import Key, engine_for, key_of
from llmserve.types import EnginePlan, HardwareInfo, InstalledModel, ModelInfo

if TYPE_CHECKING:
    from llmserve.store.store import Store

# How long a load waits for models in use to become free before its requests are told to come again.
ROOM_TIMEOUT_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What a load works with. `machine` is called in a thread, for each plan and each load; `clock` is the fleet's."""

    store: Store
    settings: Settings
    launcher: WorkerSource
    machine: Callable[[], HardwareInfo]
    clock: Callable[[], float]
    load_timeout_seconds: float
    history: History


@dataclass(frozen=True, slots=True)
class Preview:
    """The plan that the load of a model would begin with, and what would change it, in sentences."""

    plan: EnginePlan
    changes: tuple[str, ...]


class _NotLoaded(Exception):
    """One attempt failed: its plan, why, and whether memory ran out."""

    def __init__(self, plan: EnginePlan, error: LlmserveError, *, out_of_memory: bool = False) -> None:
        super().__init__(error.message)
        self.plan = plan
        self.error = error
        self.out_of_memory = out_of_memory


class _Attempts:
    """What has been tried for one load, and what is wished for next."""

    def __init__(self, settings: Settings) -> None:
        self.wish = Wish(settings)
        self.first: _NotLoaded | None = None
        self.latest: _NotLoaded | None = None

    @property
    def shrinking(self) -> bool:
        """Whether what is tried next is a smaller plan than one that ran out of memory."""
        return self.wish.too_large is not None

    @property
    def error(self) -> LlmserveError:
        """What to say when nothing is left to try: of plans that shrank, what the first one failed with."""
        told = self.first if self.shrinking else self.latest
        return told.error if told is not None else LlmserveError("nothing was tried")

    def note(self, failure: _NotLoaded) -> bool:
        """Whether there is something else to try after `failure`."""
        self.first = self.first or failure
        self.latest = failure
        following = self.wish.after(failure.plan, out_of_memory=failure.out_of_memory)
        self.wish = following or self.wish
        return following is not None

    def decide(self, hardware: HardwareInfo, info: ModelInfo, knowledge: Knowledge) -> EnginePlan:
        """The plan that is wished for. Raises `_NotLoaded` where a smaller one is wanted and there is none."""
        wish = self.wish
        if wish.too_large is None or self.latest is None:
            return make_plan(hardware, info, wish.settings, knowledge)
        smaller = shrink(wish.too_large, hardware, info, wish.settings, knowledge)
        if smaller is None:
            raise _NotLoaded(wish.too_large, self.latest.error)
        return smaller


class Loading:
    """Loads models, one at a time: what is free is measured, and what is measured must not be claimed twice.

    A load that waits for room lets the others pass.
    """

    def __init__(self, registry: Registry, admission: Admission, rules: ModelRules, means: Means) -> None:
        self._registry = registry
        self._admission = admission
        self._rules = rules
        self._means = means
        self._turn = asyncio.Semaphore(1)
        self._latest: Instance | None = None

    async def load(self, record: ModelRecord, model: InstalledModel) -> Instance:
        """A ready instance, by the first plan or, where that fails, by the next best, which it then says.

        Raises `WorkerDied` or `InsufficientStorage` for the last plan's failure; `Unavailable` where models in use
        leave no room, or nothing may be tried yet; `WrongModelKind` where nobody who waits can use the model; and what
        `Store.inspect` and the planner raise.
        """
        info = await asyncio.to_thread(self._means.store.inspect, model.name)
        self._admission.refuse_other_kinds(record, info.kind)
        attempts = _Attempts(self._means.settings)
        while True:
            try:
                return await self._attempt(record, model, info, attempts)
            except _NotLoaded as failure:
                if not attempts.note(failure):
                    self._give_up(record)
                    raise attempts.error from failure

    async def preview(self, name: str) -> Preview:
        """What would be tried first if nothing were unloaded for it; no use that would keep the model.

        Raises what `Store.manifest`, `Store.inspect` and the planner raise.
        """
        return await asyncio.to_thread(self._preview, name)

    def _preview(self, name: str) -> Preview:
        store, settings = self._means.store, self._means.settings
        model = store.installed(store.manifest(name))
        info = store.inspect(model.name)
        hardware = self._means.machine()
        knowledge = self._means.history.knowledge(_key(hardware, model))
        plan = make_plan(hardware, info, settings, knowledge)
        return Preview(plan, what_would_change(hardware, info, settings, plan, knowledge))

    async def _attempt(
        self, record: ModelRecord, model: InstalledModel, info: ModelInfo, attempts: _Attempts
    ) -> Instance:
        """By one plan. Raises `_NotLoaded` where another one may do better."""
        deadline = self._means.clock() + ROOM_TIMEOUT_SECONDS
        while True:
            changed = self._registry.changed
            async with self._turn:
                planned = await self._plan_with_room(model, info, attempts)
                if planned is not None:
                    return await self._start(record, model, *planned, attempts)
            remaining = deadline - self._means.clock()
            if remaining <= 0:
                raise Unavailable(f"no memory for `{record.name}` while other models are in use", retry_after=5.0)
            await set_within(changed, remaining)

    async def _plan_with_room(
        self, model: InstalledModel, info: ModelInfo, attempts: _Attempts
    ) -> tuple[EnginePlan, Key] | None:
        """A plan for which idle models have made what room they could; None if those in use must end first.

        With it comes the key of what is measured of it.

        Raises `InsufficientStorage` where only pinned models stand in the way, and `_NotLoaded` where a smaller plan is
        wanted and there is none.
        """
        while True:
            await self._registry.until_ended(self._stopping())
            hardware = await asyncio.to_thread(self._means.machine)
            if self._stopping():
                continue  # since that began: what it holds is neither free nor to be had from it
            key = _key(hardware, model)
            knowledge = await asyncio.to_thread(self._means.history.knowledge, key)
            plan = attempts.decide(hardware, info, knowledge)
            ready = self._registry.ready()
            rivals = [instance for instance in ready if self._rules.apart(model, instance.model)]
            room = find_room(plan, ready, rivals)
            if room.pinned:
                raise no_room_beside(model.name, room.pinned)
            if not room.victims:
                return None if room.blocked else (plan, key)
            for name in sorted(room.victims):
                logger.info("unloading %s to make room for %s", name, model.name)
                self._registry.retire(name, "room")

    def _stopping(self) -> list[ModelRecord]:
        return [record for record in self._registry if record.state == "stopping" and record.life is not None]

    async def _start(
        self, record: ModelRecord, model: InstalledModel, plan: EnginePlan, key: Key, attempts: _Attempts
    ) -> Instance:
        """Start a worker and wait until it is ready. Raises `_NotLoaded`."""
        started_at = self._means.clock()
        remaining = record.breaker(plan).remaining_seconds(started_at)
        if remaining and not attempts.shrinking:
            raise _NotLoaded(plan, failed(record, remaining))
        record.count_restart()
        worker = await self._means.launcher.worker(plan, model)
        instance = record.instance = Instance(model, plan, worker, pinned=bool(self._rules.of(model).pin), key=key)
        self._latest = instance
        if attempts.first is not None:
            instance.fallback = described(plan, attempts.first.plan, attempts.first.error.message)
            logger.warning("%s is tried with %s", record.name, instance.fallback)
        try:
            await worker.start()
            await worker.ready(self._means.load_timeout_seconds)
            instance.resident_bytes = await asyncio.to_thread(worker.resident_bytes)
        except WorkerDied as error:
            await worker.stop(0)  # one that is not ready has nothing to finish
            await self._note_failure(record, instance, error, counts=not attempts.shrinking)
            shortage = out_of_memory(plan, model.name) if worker.killed and not plan.fits else error
            raise _NotLoaded(plan, shortage, out_of_memory=worker.killed) from error
        except asyncio.CancelledError:
            await worker.stop(0)
            raise
        instance.load_seconds = self._means.clock() - started_at
        return instance

    async def note_load(self, instance: Instance) -> None:
        """Keep what the load took, unless another has begun since, so that nobody can tell. The next one waits."""
        async with self._turn:
            if self._latest is instance:
                hardware = await asyncio.to_thread(self._means.machine)
                await asyncio.to_thread(self._means.history.note_load, instance, hardware)

    async def note_run(self, instance: Instance) -> None:
        """Keep what the worker, which has ended, computed."""
        await asyncio.to_thread(self._means.history.note_run, instance)

    async def _note_failure(
        self, record: ModelRecord, instance: Instance, error: LlmserveError, *, counts: bool
    ) -> None:
        """`counts`: for the breaker, which takes a plan and its smaller versions for one attempt."""
        tail = await asyncio.to_thread(instance.worker.log.tail)
        record.note_failure(error.message, tail)
        if counts:
            record.breaker(instance.plan).load_failed(self._means.clock(), error.message)
        close_client_if_over(self._registry, instance)

    def _give_up(self, record: ModelRecord) -> None:
        """No way is left to try: the model has failed until the first of them may be tried again."""
        record.instance = None
        if record.close_until(self._means.clock()):
            logger.error("%s is not tried again before a while has passed: %s", record.name, record.last_error)


def _key(hardware: HardwareInfo, model: InstalledModel) -> Key:
    """What is measured of the model on this machine is kept under it."""
    return key_of(hardware, model, engine_for(model.format))
