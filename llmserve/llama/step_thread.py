"""A thread that computes step by step whatever jobs it was given."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from llmserve.errors import LlmserveError

J = TypeVar("J")
T = TypeVar("T")


class StepThread(ABC, Generic[J]):
    """Runs from `start` to `close`. `submit` and `cancel` may be called from any thread and return at once.

    What a job asks for is carried out between two steps, and the thread sleeps while there is nothing to compute. The
    four methods below the line belong to the thread.
    """

    def __init__(self, name: str) -> None:
        # None: the thread is to end.
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: J) -> None:
        self._commands.put(partial(self._accept, job))

    def cancel(self, job: J) -> None:
        """Compute no more of `job` than the running step does, and deliver nothing after it."""
        self._commands.put(partial(self._withdraw, job))

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Have `work` done in the thread, between two steps. The future of what comes too late for that never ends."""
        future: Future[T] = Future()

        def carry_out() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except LlmserveError as error:
                future.set_exception(error)

        self._commands.put(carry_out)
        return future

    def close(self) -> None:
        """Stop after the running step and wait for the thread. Jobs in flight get nothing more."""
        self._commands.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._take_commands():
            self._step()

    def _take_commands(self) -> bool:
        """Carry out what was asked since the last step; False when it was to end."""
        while True:
            try:
                command = self._commands.get(block=self._nothing_to_compute())
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    # --- in the thread ---

    @abstractmethod
    def _nothing_to_compute(self) -> bool: ...

    @abstractmethod
    def _accept(self, job: J) -> None: ...

    @abstractmethod
    def _withdraw(self, job: J) -> None:
        """Cancel `job`, which may be over already."""

    @abstractmethod
    def _step(self) -> None: ...
