"""A KV cache that is opened small, and grows once more sequences want to run than it has room for.

Opening a cache means clearing it, which at some gigabytes takes seconds: most of what a cold first answer would wait
for, and memory that somebody who chats alone never uses.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from llmserve.errors import LlmserveError
from llmserve.llama.kv_cache import Limits
from llmserve.llama.scheduler import Scheduler

# After a failure, memory is given so long to become free.
RETRY_SECONDS = 60.0

_log = logging.getLogger(__name__)


class GrowingDecoder(Protocol):
    """A decoder whose cache can be replaced by a larger one."""

    def open_context(self, slots: int) -> Any:
        """A cache with so many slots beside the one in use; called in a thread of its own."""

    def move_to(self, context: Any) -> None:
        """Go on in `context`. Raises `LlmserveError`, and goes on in the old one then."""


class Growth:
    """Opens a larger cache in a thread beside the steps, and moves to it between two of them.

    `stages` are the limits that it may have, the smallest first: the first with a place for everybody is taken, or the
    last. `between_steps` has something done in the engine thread, to which `consider` belongs.
    """

    def __init__(
        self,
        decoder: GrowingDecoder,
        scheduler: Scheduler,
        stages: Sequence[Limits],
        between_steps: Callable[[Callable[[], None]], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decoder = decoder
        self._scheduler = scheduler
        self._stages = stages
        self._between_steps = between_steps
        self._clock = clock
        self._opening = False
        self._not_before = clock()

    def consider(self) -> None:
        """Begin to grow if sequences wait for a place that a larger cache has."""
        if self._opening or not self._scheduler.crowded or self._scheduler.cache.limits == self._stages[-1]:
            return
        if self._clock() >= self._not_before:
            self._opening = True
            threading.Thread(target=self._open, args=[self._next()], name="growth", daemon=True).start()

    def _next(self) -> Limits:
        wanted = self._scheduler.running + self._scheduler.waiting
        return next((stage for stage in self._stages if stage.parallel >= wanted), self._stages[-1])

    def _open(self, limits: Limits) -> None:
        try:
            context = self._decoder.open_context(limits.slots)
        except LlmserveError as error:
            self._between_steps(partial(self._failed, error))
        else:
            self._between_steps(partial(self._move, context, limits))

    def _move(self, context: object, limits: Limits) -> None:
        try:
            self._decoder.move_to(context)
        except LlmserveError as error:
            self._failed(error)
            return
        self._opening = False
        self._scheduler.cache.grow(limits)

    def _failed(self, error: LlmserveError) -> None:
        self._opening = False
        self._not_before = self._clock() + RETRY_SECONDS
        slots = self._scheduler.cache.limits.slots
        _log.warning("the KV cache stays at %d of %d sequences: %s", slots, self._stages[-1].slots, error)
