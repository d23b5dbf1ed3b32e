"""Workers that live and do nothing, and those that only look so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest

from llmserve.fleet.watchdog import POLL_SECONDS, SILENCE_SECONDS, STEP_SECONDS, Watchdog
from llmserve.fleet.worker import Worker
from tests.fleet.virtual import VirtualLoop

Stats = Callable[[float], dict[str, Any] | None]


class Watched:
    """A worker whose statistics a test makes up; None is silence."""

    def __init__(self, stats: Stats) -> None:
        self.ended: tuple[str, float] | None = None
        self.client = SimpleNamespace(get=self._get)
        self._stats = stats

    async def _get(self, path: str, timeout: float) -> Any:  # noqa: ASYNC109 (httpx2's own signature)
        stats = self._stats(asyncio.get_running_loop().time())
        if stats is None:
            await asyncio.sleep(timeout)
            raise httpx2.ReadTimeout("silent")
        return SimpleNamespace(status_code=stats.pop("status", 200), json=lambda: stats)

    def hangs(self, how: str) -> None:
        self.ended = (how, asyncio.get_running_loop().time())


def watch(stats: Stats, in_use: Callable[[], bool] = lambda: True, seconds: float = 1000.0) -> tuple[str, float] | None:
    """How a worker was ended and when, within `seconds` of virtual time."""

    async def main() -> tuple[str, float] | None:
        watched = Watched(stats)
        running = asyncio.create_task(Watchdog(cast(Worker, watched), in_use).run())
        await asyncio.wait({running}, timeout=seconds)
        running.cancel()
        return watched.ended

    work: Coroutine[Any, Any, tuple[str, float] | None] = main()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def test_a_worker_that_stops_answering_is_ended_in_time() -> None:
    ended = watch(lambda now: {"running": 1, "steps": now} if now < 100 else None)
    assert ended is not None
    how, when = ended
    assert how.startswith("has not answered for 1")
    assert when <= 100 + SILENCE_SECONDS + 2 * POLL_SECONDS


def test_a_worker_that_stops_computing_is_ended_in_time() -> None:
    ended = watch(lambda now: {"running": 1, "steps": min(now, 100)})
    assert ended is not None
    how, when = ended
    assert how == "has computed nothing for 120 s"
    assert 100 + STEP_SECONDS <= when <= 100 + STEP_SECONDS + 2 * POLL_SECONDS


@pytest.mark.parametrize(
    "stats",
    [
        pytest.param(lambda now: {"running": 1, "steps": now // 100}, id="slow steps"),
        pytest.param(lambda now: {"running": 0, "steps": 5}, id="nothing runs"),
        pytest.param(lambda now: {"running": 1}, id="steps are not counted"),
        pytest.param(lambda now: {"status": 404}, id="no statistics"),
    ],
)
def test_who_has_nothing_to_do_or_works_slowly_is_left_alone(stats: Stats) -> None:
    assert watch(stats) is None


def test_nobody_asks_a_worker_that_is_not_in_use() -> None:
    def unexpected(now: float) -> dict[str, Any]:
        raise AssertionError

    assert watch(unexpected, in_use=lambda: False) is None
