"""What the routes share: the fleet, the store, the settings, and whether the gateway is starting or leaving."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmserve.api.limits import Limits
from llmserve.api.metrics import Metrics
from llmserve.api.problems import Problems
from llmserve.errors import LlmserveError, Unavailable
from llmserve.openai.adapters import split_adapter
from llmserve.settings import Settings

if TYPE_CHECKING:
    from llmserve.fleet.fleet import Fleet
    from llmserve.store.store import Store

_log = logging.getLogger(__name__)

DEFAULT_MAX_OUTPUT_TOKENS = 4096


class Gateway:
    """One running gateway. It owns `fleet`: `close` ends every worker.

    `resumes_batches`: whether it goes on with unfinished batches of earlier ones as soon as it starts.
    """

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        settings: Settings,
        limits: Limits | None = None,
        *,
        resumes_batches: bool = True,
    ) -> None:
        self.fleet = fleet
        self.store = store
        self.settings = settings
        self.limits = limits or Limits()
        self.metrics = Metrics(fleet.status, fleet.turnover)
        self.problems = Problems()
        self.resumes_batches = resumes_batches
        self.draining = False
        # Called when the drain begins.
        self.on_drain: list[Callable[[], None]] = []
        self._preloads: dict[str, asyncio.Task[str | None]] = {}

    @property
    def max_output_tokens(self) -> int:
        """The cap of a request that states none."""
        return self.settings.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS

    def check_open(self) -> None:
        """Raises `Unavailable` once this gateway is leaving."""
        if self.draining:
            raise Unavailable("the server is stopping", code="stopping", retry_after=5)

    def preload(self, models: Sequence[str]) -> None:
        """Start loading `models` in the background; `pending` and `GET /ready` tell how that goes."""
        for model in models:
            self._preloads[model] = asyncio.create_task(self._load(model))

    def pending(self) -> dict[str, str]:
        """The preloaded models that are not ready, each with the reason."""
        phases = self.phases()
        waiting = {model: phases.get(model, "loading") for model, task in self._preloads.items() if not task.done()}
        failed = {
            model: failure
            for model, task in self._preloads.items()
            if task.done() and not task.cancelled() and (failure := task.result()) is not None
        }
        return {**waiting, **failed}

    def phases(self) -> dict[str, str]:
        """What each model that is loading is doing, where it says so: "loading: compiling, 12 s"."""
        statuses = (status for status in self.fleet.status() if status.state == "loading" and status.phase is not None)
        return {status.name: f"loading: {status.phase}" for status in statuses}

    def phase(self, model: str) -> str | None:
        """What the model that a client calls `model` is doing, as `phases` has it; None where it is not loading."""
        phases = self.phases()
        return phases.get(self.own_name(model)) if phases else None

    def own_name(self, model: str) -> str:
        """The name that the fleet has for the model that a client calls `model`."""
        name, _ = split_adapter(model)
        try:
            return str(self.store.reference(name))
        except LlmserveError:  # which the request learns of as well
            return name

    async def drain(self, seconds: float) -> None:
        """Refuse new generations, let the running ones end for up to `seconds`, then end the workers."""
        self.draining = True
        for call in self.on_drain:
            call()
        await self.fleet.close(seconds)

    async def close(self) -> None:
        """End the workers now. Harmless when repeated."""
        for task in self._preloads.values():
            task.cancel()
        await self.drain(0.0)

    async def _load(self, model: str) -> str | None:
        """Load `model`; returns why that failed, None if it did not."""
        try:
            lease = await self.fleet.lease(model)
        except LlmserveError as error:
            _log.error("cannot preload %s: %s", model, error.message)
            return error.message
        except Exception:
            _log.exception("cannot preload %s", model)
            return "internal error"
        lease.release()
        return None
