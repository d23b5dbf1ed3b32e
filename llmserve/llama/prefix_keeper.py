"""Prefixes between the worker's memory and the disk: written while nothing is computed, read before they are needed."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from llmserve.errors import LlmserveError
from llmserve.llama.batch import Batch
from llmserve.llama.engine import Decoder, Engine
from llmserve.llama.prefix_archive import PrefixArchive
from llmserve.llama.scheduler import Scheduler

# A file is written when at least this part of its tokens is in no other: so a conversation is not written again at each
# of its turns, and what many requests have in common is not written with each of them.
_LEAST_NEW_PART = 4
# A file is read when it saves at least this part of its tokens, as all of them have to be read.
_LEAST_USEFUL_PART = 8
# Nothing was computed for so long: time to write. Somebody who reads an answer comes back sooner.
_IDLE_SECONDS = 20.0
# What the last writing may take, of the seconds in which a worker has to end.
_FAREWELL_SECONDS = 2.5
# How long a step may take before the writer gives up on the engine.
_PATIENCE_SECONDS = 5.0

T = TypeVar("T")


class StateDecoder(Decoder, Protocol):
    """A decoder that shows what it saved."""

    def saved_state(self, key: int) -> npt.NDArray[np.uint8]: ...


class PrefixKeeper:
    """Between the engine, which owns the cache and its shelf, and the archives of one model: one for each adapter.

    `bring` and `watch` belong to the event loop; files are read and written in a thread each.
    """

    def __init__(
        self, engine: Engine, scheduler: Scheduler, decoder: StateDecoder, archives: Sequence[PrefixArchive]
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._decoder = decoder
        self._archives = archives
        self._worth_reading = scheduler.cache.limits.worth_saving
        # One at a time, which bounds the memory that files take before their place on the shelf is made.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prefix-reader")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="prefix-writer")
        self._reading: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._deadline = math.inf
        self._writing = threading.Lock()

    async def bring(self, tokens: list[int], adapter: int = 0) -> None:
        """Put the file with the longest prefix of `tokens` on the shelf, if that spares much more than what is there.

        Returns when it is there, before the request for `tokens` is submitted. A file that cannot be used is as none.
        """
        found = self._archives[adapter].match(tokens)
        if found is None or found.matched < self._worth_reading:
            return
        there = await asyncio.wrap_future(self._engine.call(lambda: self._scheduler.cache.reusable(tokens, adapter)))
        if found.matched - there < max(self._worth_reading, found.length // _LEAST_USEFUL_PART):
            return
        file = adapter, found.entry
        reading = self._reading.get(file)
        if reading is None:
            reading = self._reading[file] = asyncio.create_task(self._read(*file))
            reading.add_done_callback(lambda _: self._reading.pop(file))
        # Others may wait for the same file: who hangs up does not end the reading.
        await asyncio.shield(reading)

    async def watch(self) -> None:
        """Write what is worth it whenever nothing was computed for a while, until cancelled."""
        seen = written = self._engine.counters.steps
        while True:
            await asyncio.sleep(_IDLE_SECONDS)
            steps = self._engine.counters.steps
            if steps == seen != written and self._is_idle():
                await asyncio.get_running_loop().run_in_executor(self._writer, self.write, self._is_idle)
                written = steps
            seen = steps

    def close(self) -> None:
        """Write what is worth it within the seconds that a worker has to end. Blocks; the engine must still run."""
        self._deadline = time.monotonic() + _FAREWELL_SECONDS
        self.write()
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=False, cancel_futures=True)

    def write(self, may_go_on: Callable[[], bool] = lambda: True) -> None:
        """Write the prefixes that are worth it, until `may_go_on` says no. Blocks."""

        def has_time() -> bool:
            return time.monotonic() < self._deadline and may_go_on()

        with self._writing:
            since = time.time()
            try:
                for tokens, adapter in self._ask(lambda: self._scheduler.cache.worth_archiving()):
                    archive = self._archives[adapter]
                    if not has_time():
                        return
                    if len(tokens) - archive.use(tokens) < len(tokens) / _LEAST_NEW_PART:
                        continue
                    state = self._ask(partial(self._state_of, tokens, adapter))
                    if state is not None:
                        archive.store(tokens, state, since, has_time)
            except (TimeoutError, LlmserveError):
                return  # the engine ended, or has troubles of its own

    async def _read(self, adapter: int, entry: int) -> None:
        load = self._archives[adapter].load
        loaded = await asyncio.get_running_loop().run_in_executor(self._reader, load, entry)
        if loaded is not None:
            tokens, state = loaded
            await asyncio.wrap_future(self._engine.call(lambda: self._scheduler.cache.keep(tokens, state, adapter)))

    def _is_idle(self) -> bool:
        return not self._engine.running and not self._engine.waiting

    def _ask(self, work: Callable[[], T]) -> T:
        return self._engine.call(work).result(_PATIENCE_SECONDS)

    def _state_of(self, tokens: list[int], adapter: int) -> npt.NDArray[np.uint8] | None:
        """What the shelf has of these tokens, copied there first if need be; None if they are gone. In the engine."""
        cache = self._scheduler.cache
        key = cache.shelve(tokens, adapter)
        if key is None:
            return None
        self._decoder.decode(Batch(operations=cache.take_operations()))
        return self._decoder.saved_state(key)
