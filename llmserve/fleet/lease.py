"""The right to use a loaded model for one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

from llmserve.errors import DeadlineExceeded, WorkerDied
from llmserve.fleet.connection import WorkerConnection
from llmserve.fleet.worker import Worker
from llmserve.types import EnginePlan, InstalledModel


class Lease:
    """A hold on one worker: as long as it is not released, the model is not unloaded to make room or for being idle.

    A worker may still die, or be stopped at the end of the gateway's drain: `died` is set then, `reason()` says why,
    and requests through `client` fail. A dead worker's connections may break some milliseconds before `died` is set.
    `fallback` says why the model runs otherwise than was planned first, None if it does not. `takes_place`: it counts
    among those that the worker computes.
    """

    def __init__(
        self,
        model: InstalledModel,
        plan: EnginePlan,
        worker: Worker,
        release: Callable[[Lease], None],
        *,
        fallback: str | None = None,
        takes_place: bool = True,
    ) -> None:
        self.model = model
        self.plan = plan
        self.fallback = fallback
        self.takes_place = takes_place
        self._worker = worker
        self._give_back: Callable[[Lease], None] | None = release

    @property
    def client(self) -> httpx2.AsyncClient:
        """HTTP to the worker: base URL `http://worker`, keep-alive, no limit on the time an answer takes."""
        return self._worker.client

    async def connect(self, timeout_seconds: float | None) -> WorkerConnection:
        """A connection for one request whose answer is relayed. Raises httpx2's `ConnectError` or `ConnectTimeout`."""
        return await self._worker.connect(timeout_seconds)

    @property
    def died(self) -> asyncio.Event:
        return self._worker.died

    def reason(self) -> WorkerDied | DeadlineExceeded:
        """Why the worker is gone, in a sentence fit for the client."""
        return self._worker.reason()

    def condemn(self, because: str) -> None:
        """End the worker at once, because it does what it must not; `because` is a sentence for the log.

        Whoever else uses it is told that it died.
        """
        self._worker.condemn(because)

    def release(self) -> None:
        """Give the hold back; the second call does nothing. Call it on the event loop's thread."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self)
