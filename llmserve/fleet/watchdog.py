"""Finds a worker that lives and does nothing: stopped, deadlocked, or lost in native code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

from llmserve.fleet.worker import Worker

POLL_SECONDS = 2.5
# How long a worker in use may leave a question for its statistics unanswered: its event loop does nothing else.
SILENCE_SECONDS = 10.0
# How long it may take for one step while requests run. Steps are made to take half a second where others wait.
STEP_SECONDS = 120.0


class Watchdog:
    """Watches one worker while requests are on it (`in_use`), and ends it when it hangs.

    It does so at most `SILENCE_SECONDS + POLL_SECONDS` after the worker fell silent, and `STEP_SECONDS + POLL_SECONDS`
    after its last step. A worker that counts no `steps` is only asked whether it answers.
    """

    def __init__(self, worker: Worker, in_use: Callable[[], bool]) -> None:
        self._worker = worker
        self._in_use = in_use
        self._steps: object = None
        self._stepped_at = 0.0
        self._answered_at = 0.0

    async def run(self) -> None:
        """Until the worker is ended for hanging; cancel it when the worker ends otherwise."""
        loop = asyncio.get_running_loop()
        self._answered_at = self._stepped_at = loop.time()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._in_use():
                self._answered_at = self._stepped_at = loop.time()
                continue
            await self._ask(loop)
            now = loop.time()
            if now - self._answered_at >= SILENCE_SECONDS:
                return self._worker.hangs(f"has not answered for {now - self._answered_at:.0f} s")
            if now - self._stepped_at >= STEP_SECONDS:
                return self._worker.hangs(f"has computed nothing for {now - self._stepped_at:.0f} s")

    async def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        left = self._answered_at + SILENCE_SECONDS - loop.time()
        try:
            answer = await self._worker.client.get("/stats", timeout=max(POLL_SECONDS, left))
            stats = answer.json() if answer.status_code == 200 else None
        except httpx2.TransportError:
            return
        except ValueError:
            stats = None
        self._answered_at = loop.time()
        steps = stats.get("steps") if isinstance(stats, dict) and stats.get("running") else None
        if steps is None or steps != self._steps:
            self._steps, self._stepped_at = steps, self._answered_at
