"""Trials of candidates: a worker is started as the gateway would, loaded with requests, measured and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

import httpx2

from llmserve.errors import LlmserveError, WorkerDied
from llmserve.fleet.launcher import WorkerSource
from llmserve.fleet.record import places_of
from llmserve.fleet.trial_load import Clients
from llmserve.fleet.waiting import set_within
from llmserve.fleet.worker import Worker
from llmserve.planning.candidates import Shape
from llmserve.planning.contest import Failed, Measured, Result, Trial, Verdict
from llmserve.types import EnginePlan, InstalledModel, LoadShape

# How long the clients may take until all of them read; a slow machine is measured before that.
_WARM_UP_SECONDS = 60.0
# A worker that computes nothing for so long is of no use.
_STEP_SECONDS = 120.0
_STATS_SECONDS = 10.0
# How finely the end of a step is seen.
_POLL_SECONDS = 0.01
_DEATH_SECONDS = 1.0

# Called with None before a trial, and with its result after it.
Report: TypeAlias = Callable[[Trial, Result | None], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a worker had counted when it ended a step, by the event loop's clock."""

    at: float
    prompt_tokens: float
    generated_tokens: float

    def speed_until(self, later: Reading, shape: LoadShape) -> float:
        """Tokens per second: those that were written, and for long prompts also those that were read."""
        tokens = later.generated_tokens - self.generated_tokens
        if shape == "long-prompts":
            tokens += later.prompt_tokens - self.prompt_tokens
        return tokens / (later.at - self.at)


class Trials:
    """Measures ways of running `model` under one shape of load, one after the other."""

    def __init__(
        self, launcher: WorkerSource, model: InstalledModel, shape: Shape, load_timeout_seconds: float
    ) -> None:
        self._launcher = launcher
        self._model = model
        self._shape = shape
        self._load_timeout_seconds = load_timeout_seconds

    async def hold(self, contest: Generator[Trial, Result, Verdict], report: Report) -> Verdict:
        """Run every trial of `contest`. Raises what it raises; cancelled, it leaves no worker behind."""
        trial = next(contest)
        while True:
            report(trial, None)
            result = await self.run(trial)
            report(trial, result)
            try:
                trial = contest.send(result)
            except StopIteration as end:
                verdict: Verdict = end.value
                return verdict

    async def run(self, trial: Trial) -> Result:
        """One trial, from the start of a worker to its end."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            speed = await self._measure(trial)
        except LlmserveError as error:
            return Failed(error.message, clock() - started)
        return Measured(speed, clock() - started)

    async def _measure(self, trial: Trial) -> float:
        """Tokens per second. Raises `LlmserveError` where there are none."""
        plan = trial.candidate.plan
        worker = await self._launcher.worker(plan, self._model)
        try:
            await worker.start()
            await worker.ready(self._load_timeout_seconds)
            return await self._under_load(worker, plan, trial.window_seconds)
        except WorkerDied as error:
            tail = await asyncio.to_thread(worker.log.tail) if worker.died.is_set() else ""
            raise WorkerDied(f"{error.message}: {tail.splitlines()[-1]}" if tail else error.message) from error
        finally:
            # There is nothing that it should finish or keep.
            await worker.stop(0)
            await worker.client.aclose()

    async def _under_load(self, worker: Worker, plan: EnginePlan, seconds: float) -> float:
        """Tokens per second while clients keep the worker busy. Raises `LlmserveError`."""
        # The gateway gives a worker no more at once.
        count = min(self._shape.clients, places_of(plan))
        clients = Clients(worker, self._shape, plan.context, min(count, plan.parallel))
        asking = [asyncio.create_task(clients.ask(number)) for number in range(count)]
        measuring = asyncio.create_task(self._window(worker, clients, seconds))
        try:
            await asyncio.wait([*asking, measuring], return_when=asyncio.FIRST_COMPLETED)
            for task in asking:
                if task.done():
                    await task  # by an error: none of them ends otherwise
            return measuring.result()
        except httpx2.TransportError:
            await set_within(worker.died, _DEATH_SECONDS)
            raise worker.reason() from None
        finally:
            measuring.cancel()
            for task in asking:
                task.cancel()
            await asyncio.gather(measuring, *asking, return_exceptions=True)

    async def _window(self, worker: Worker, clients: Clients, seconds: float) -> float:
        if self._shape.name != "long-prompts":  # there a prompt being computed is what is measured
            await set_within(clients.all_read, _WARM_UP_SECONDS)
        before = await _at_the_end_of_a_step(worker)
        await asyncio.sleep(seconds)
        speed = before.speed_until(await _at_the_end_of_a_step(worker), self._shape.name)
        if speed <= 0:
            raise WorkerDied(f"nothing was written in {seconds:.0f} seconds")
        return speed


async def _at_the_end_of_a_step(worker: Worker) -> Reading:
    """The counters as soon as they change: a step may be a large part of what is measured.

    Raises `WorkerDied` where they do not, and httpx2's `TransportError`.
    """
    loop = asyncio.get_running_loop()
    first, deadline = await _counters(worker), loop.time() + _STEP_SECONDS
    while (now := await _counters(worker)).get("steps") == first.get("steps"):
        if loop.time() > deadline:
            raise WorkerDied(f"the worker computed nothing for {_STEP_SECONDS:g} s")
        await asyncio.sleep(_POLL_SECONDS)
    return Reading(loop.time(), now.get("prompt_tokens", 0), now.get("generated_tokens", 0))


async def _counters(worker: Worker) -> dict[str, float]:
    answer = await worker.client.get("/stats", timeout=_STATS_SECONDS)
    try:
        counters = answer.json() if answer.status_code == httpx2.codes.OK else None
    except ValueError:
        counters = None
    if not isinstance(counters, dict):
        raise WorkerDied("the worker does not say what it computes")
    return counters
