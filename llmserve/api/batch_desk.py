"""The files and batches of a gateway, from its event loop."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from llmserve.batches.store import DIRECTORY, BatchStore, Bounds
from llmserve.errors import InsufficientStorage
from llmserve.settings import Settings, home_directory

T = TypeVar("T")


class BatchDesk:
    """A `BatchStore` in a thread of its own, opened at its first use. `close` it once."""

    def __init__(self, settings: Settings) -> None:
        defaults = Bounds()
        self._directory = home_directory(settings) / DIRECTORY
        self._bounds = Bounds(
            disk_bytes=defaults.disk_bytes if settings.batch_disk is None else settings.batch_disk,
            seconds=defaults.seconds if settings.batch_days is None else 86_400.0 * settings.batch_days,
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._store: BatchStore | None = None

    @property
    def seconds(self) -> float:
        """How long files and batches are kept."""
        return self._bounds.seconds

    def was_used(self) -> bool:
        """Whether there may be anything, now or from an earlier run. Does not open it."""
        return self._store is not None or self._directory.exists()

    async def do(self, work: Callable[[BatchStore], T]) -> T:
        """What `work` returns, called in the thread of the store. Who is cancelled waits until it is over.

        Raises what it raises, what opening the store raises, and `InsufficientStorage` where the disk is full.
        """
        doing = asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            await asyncio.wait({doing})
            raise

    async def close(self) -> None:
        """Harmless when repeated."""
        store, self._store = self._store, None
        if store is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, store.close)
        self._thread.shutdown(wait=False)

    def _do(self, work: Callable[[BatchStore], T]) -> T:
        if self._store is None:
            self._store = BatchStore(self._directory, self._bounds)
        try:
            return work(self._store)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise InsufficientStorage("no room on the disk for files and batches") from error
            raise
