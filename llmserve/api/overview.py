"""What a person wants to see of a running gateway: figures of this moment, plans, problems, models to be had."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmserve import __version__
from llmserve.api.dialect import json_response
from llmserve.api.gateway import Gateway
from llmserve.api.memory_use import MemoryUse, MemoryWatch
from llmserve.api.query import named_model

# However many look, the workers and the machine are asked once in so many seconds.
FRESH_SECONDS = 1.0


class OverviewRoutes:
    """The endpoints that `page/` is made from, beside those that programs have anyway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._figures = Figures(gateway, MemoryWatch())

    def table(self) -> list[Route]:
        return [
            Route("/admin/live", self.live, methods=["GET"]),
            Route("/admin/plan", self.plan, methods=["GET"]),
            Route("/admin/problems", self.problems, methods=["GET"]),
            Route("/admin/catalog", self.catalog, methods=["GET"]),
        ]

    async def live(self, request: Request) -> Response:
        return json_response(await self._figures.latest())

    async def plan(self, request: Request) -> Response:
        """How a model would be run on what is free now, and why."""
        model = named_model(request)
        preview = await self._gateway.fleet.preview(model)
        return json_response({"model": model, **asdict(preview)})

    async def problems(self, request: Request) -> Response:
        return json_response({"problems": self._gateway.problems.latest()})

    async def catalog(self, request: Request) -> Response:
        """The models that can be pulled by their names alone."""

        def models() -> list[dict[str, Any]]:
            return [
                {
                    "name": model.name,
                    "aliases": model.aliases,
                    "description": model.description,
                    "task": model.task,
                    "license": model.license,
                }
                for model in self._gateway.store.catalog.models
            ]

        return json_response({"models": await asyncio.to_thread(models)})


class Figures:
    """What the gateway, its workers and the machine count, measured anew when it is asked for and not fresh."""

    def __init__(self, gateway: Gateway, memory: Callable[[], tuple[MemoryUse, ...]]) -> None:
        self._gateway = gateway
        self._memory = memory
        self._started_at = time.monotonic()
        self._measured_at = 0.0
        self._measuring: asyncio.Task[dict[str, Any]] | None = None

    async def latest(self) -> dict[str, Any]:
        """Those of this second. Who hangs up does not end the measurement that others wait for."""
        now = time.monotonic()
        if self._measuring is None or (self._measuring.done() and now - self._measured_at >= FRESH_SECONDS):
            self._measuring, self._measured_at = asyncio.create_task(self._measure()), now
        return await asyncio.shield(self._measuring)

    async def _measure(self) -> dict[str, Any]:
        fleet, metrics = self._gateway.fleet, self._gateway.metrics
        counters, memory = await asyncio.gather(fleet.counters(), asyncio.to_thread(self._memory))
        metrics.workers_counted(counters)
        statuses = fleet.status()
        return {
            "version": __version__,
            "time": time.time(),
            "uptime_seconds": time.monotonic() - self._started_at,
            **asdict(metrics.totals()),
            "running": sum(int(worker.counts.get("running", 0)) for worker in counters),
            "waiting": sum(status.waiting for status in statuses),
            "memory": [asdict(use) for use in memory],
            "models": [asdict(status) for status in statuses],
        }
