"""A trial starts a worker, loads it, measures its speed and ends it, whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx2
import pytest

from llmserve.errors import WorkerDied
from llmserve.fleet.launcher import Launcher
from llmserve.fleet.trial_load import request
from llmserve.fleet.trials import Trials
from llmserve.planning.candidates import Candidate, Case, Shape
from llmserve.planning.contest import Failed, Measured, Result, Trial, contest
from llmserve.planning.measurements import Choices, Knowledge
from llmserve.settings import Settings
from llmserve.types import EnginePlan, InstalledModel
from tests.fleet.fakes import World, children, fake_plan, until
from tests.fleet.virtual import VirtualLoop
from tests.planning.machines import machine
from tests.planning.models import SMOLLM2_135M

MODEL = InstalledModel("x", (), "gguf", "Q4_0", "/x", 1, "0" * 64, "file:/x", 0.0)
ONE, MANY, LONG = Shape("one-user", 1), Shape("many-users", 16), Shape("long-prompts", 1)
PIECE = b'data: {"choices":[]}\n\n'
T = TypeVar("T")


@dataclass
class Script:
    """How the workers of a test behave. Each stream gets a token every `token_seconds`, after `prompt_tokens` at once.

    writes: if not, steps compute tokens of prompts alone. dies_loading; dies_at, silent_at: seconds after the first
    request. status, error: what the answers are instead.
    """

    load_seconds: float = 1.0
    token_seconds: float = 0.1
    prompt_tokens: int = 100
    writes: bool = True
    dies_loading: bool = False
    dies_at: float | None = None
    silent_at: float | None = None
    status: int = 200
    error: bytes | None = None
    log: str = ""


@dataclass
class ScriptedWorker:
    """A worker in virtual time, and its client in one."""

    script: Script
    died: asyncio.Event = field(default_factory=asyncio.Event)
    open: int = 0
    most_open: int = 0
    stopped: bool = False
    closed: bool = False
    first: float | None = None
    counts: dict[str, int] = field(
        default_factory=lambda: {"steps": 0, "prompt_tokens": 0, "generated_tokens": 0, "running": 0}
    )

    @property
    def client(self) -> ScriptedWorker:
        return self

    @property
    def log(self) -> ScriptedWorker:
        return self

    def tail(self) -> str:
        return self.script.log

    async def start(self) -> None:
        pass

    async def ready(self, timeout_seconds: float) -> None:
        await asyncio.sleep(self.script.load_seconds)
        if self.script.dies_loading:
            self.died.set()
            raise self.reason()

    def reason(self) -> WorkerDied:
        return WorkerDied("the worker of `x` was killed by SIGSEGV")

    async def stop(self, grace_seconds: float) -> None:
        self.stopped = True
        self.died.set()

    async def aclose(self) -> None:
        self.closed = True

    async def get(self, path: str, timeout: float) -> httpx2.Response:  # noqa: ASYNC109 (httpx2's own signature)
        return httpx2.Response(200, json=self.counts)

    @asynccontextmanager
    async def stream(self, method: str, path: str, json: dict[str, Any]) -> AsyncIterator[ScriptedAnswer]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            yield ScriptedAnswer(self, json["max_tokens"])
        finally:
            self.open -= 1

    def silent(self, now: float) -> bool:
        self.first = now if self.first is None else self.first
        if self.script.dies_at is not None and now >= self.first + self.script.dies_at:
            self.died.set()
            raise httpx2.RemoteProtocolError("gone")
        return self.script.silent_at is not None and now >= self.first + self.script.silent_at


@dataclass
class ScriptedAnswer:
    worker: ScriptedWorker
    tokens: int

    @property
    def status_code(self) -> int:
        return self.worker.script.status

    async def aread(self) -> bytes:
        return self.worker.script.error or b""

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        worker, script, now = self.worker, self.worker.script, asyncio.get_running_loop().time
        for number in range(self.tokens):
            await asyncio.sleep(script.token_seconds)
            if worker.silent(now()):
                await asyncio.sleep(10_000)
            if not number:
                worker.counts["prompt_tokens"] += script.prompt_tokens
            worker.counts["steps"] += 1
            worker.counts["generated_tokens" if script.writes else "prompt_tokens"] += 1
            yield script.error or PIECE


@dataclass
class ScriptedLauncher:
    """Gives out workers by script; `faster`: those of the choices that are."""

    script: Script
    workers: list[ScriptedWorker] = field(default_factory=list)

    async def worker(self, plan: EnginePlan, model: InstalledModel) -> Any:
        script = self.script if plan.speculation else replace(self.script, token_seconds=self.script.token_seconds / 2)
        self.workers.append(ScriptedWorker(script))
        return self.workers[-1]

    async def close(self) -> None:
        pass


def virtually(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def trial(window_seconds: float = 5.0, parallel: int = 16) -> Trial:
    return Trial(Candidate(Choices(), fake_plan(parallel=parallel)), window_seconds)


def run(script: Script, shape: Shape = ONE, parallel: int = 16) -> tuple[Result, ScriptedWorker]:
    launcher = ScriptedLauncher(script)
    result = virtually(Trials(launcher, MODEL, shape, 20.0).run(trial(parallel=parallel)))
    (worker,) = launcher.workers
    assert worker.stopped and worker.closed and worker.open == 0
    return result, worker


def speed(result: Result) -> float:
    assert isinstance(result, Measured)
    return result.tokens_per_second


@pytest.mark.parametrize(("shape", "tokens_per_second"), [(ONE, 10), (MANY, 160), (Shape("many-users", 3), 30)])
def test_the_speed_is_that_of_all_clients_together(shape: Shape, tokens_per_second: float) -> None:
    result, _ = run(Script(), shape)
    assert speed(result) == pytest.approx(tokens_per_second, rel=0.05)


def test_what_is_read_counts_where_prompts_are_long() -> None:
    # An answer of 16 tokens to each prompt of 1,600, in 1.6 seconds.
    result, _ = run(Script(prompt_tokens=1600), LONG)
    assert speed(result) == pytest.approx(1010, rel=0.35)
    without, _ = run(Script(prompt_tokens=1600), ONE)
    assert speed(without) == pytest.approx(10, rel=0.05)


def test_the_trial_tells_what_it_took_in_all() -> None:
    result, _ = run(Script(load_seconds=7.0))
    assert 12 < result.seconds < 14


def test_a_worker_gets_no_more_requests_at_once_than_the_gateway_would_give_it() -> None:
    _, worker = run(Script(), Shape("many-users", 64), parallel=4)
    assert worker.most_open == 5


def test_steps_that_take_longer_than_the_window_are_measured_whole() -> None:
    result, _ = run(Script(token_seconds=9.0))
    assert speed(result) == pytest.approx(1 / 9, rel=0.02)


def test_who_has_still_to_read_the_prompt_gives_no_speed() -> None:
    result, _ = run(Script(writes=False))
    assert isinstance(result, Failed)
    assert result.reason == "nothing was written in 5 seconds"
    assert speed(run(Script(writes=False), LONG)[0]) > 0


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(dies_loading=True, log="loading\nno such architecture"), "killed by SIGSEGV: no such architecture"),
        (Script(dies_at=2.0), "killed by SIGSEGV"),
        (Script(silent_at=2.0), "computed nothing for 120 s"),
        (Script(status=500, error=b'{"error": {"message": "no room"}}'), "no room"),
        (Script(status=500, error=b"what?"), "did not answer in the protocol"),
        (Script(error=b'data: {"error": {"message": "the cache is lost"}}\n\n'), "the cache is lost"),
    ],
)
def test_a_trial_that_fails_says_why_and_leaves_nothing_behind(script: Script, reason: str) -> None:
    result, _ = run(script, MANY)
    assert isinstance(result, Failed)
    assert reason in result.reason


def test_a_trial_that_is_cancelled_ends_its_worker() -> None:
    launcher = ScriptedLauncher(Script())

    async def interrupted() -> None:
        running = asyncio.create_task(Trials(launcher, MODEL, MANY, 20.0).run(trial()))
        await asyncio.sleep(3)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()

    virtually(interrupted())
    (worker,) = launcher.workers
    assert worker.stopped and worker.closed and worker.open == 0


def test_a_contest_is_held_to_its_end() -> None:
    case = Case(machine("laptop_no_gpu"), SMOLLM2_135M, Settings(), Knowledge(), ONE)
    launcher = ScriptedLauncher(Script(token_seconds=0.02))
    told: list[tuple[str, bool]] = []

    async def held() -> Any:
        report = lambda trial, result: told.append((trial.candidate.name, result is not None))  # noqa: E731
        return await Trials(launcher, MODEL, ONE, 20.0).hold(contest(case, 120), report)

    verdict = virtually(held())
    assert verdict.winner.choices == Choices(speculation=False)
    assert verdict.winner.tokens_per_second == pytest.approx(100, rel=0.1)
    assert [name for name, ended in told if not ended] == [name for name, ended in told if ended]
    assert len(told) == 2 * len(launcher.workers)
    assert all(worker.stopped and worker.closed for worker in launcher.workers)


def test_every_request_fits_into_the_context_and_is_like_no_other() -> None:
    small = request(LONG, 512, 0, 0)
    assert len(small["messages"][0]["content"].split()) * 2 + small["max_tokens"] < 512
    texts = {request(MANY, 8192, client, number)["messages"][0]["content"] for client in range(16) for number in (0, 1)}
    assert len(texts) == 32
    assert request(MANY, 8192, 3, 1) == request(MANY, 8192, 3, 1)


async def test_a_real_process_is_measured_and_gone(world: World) -> None:
    world.store.add("alpha", answer={"tokens": 200, "delay": 0.005})
    launcher = Launcher(world.settings, world.launch)
    trials = Trials(launcher, world.store.find("alpha"), Shape("many-users", 4), 20.0)
    try:
        result = await trials.run(trial(0.5))
    finally:
        await launcher.close()
    assert 40 < speed(result) < 4 / 0.005
    await until(lambda: children() == [])


async def test_a_real_process_that_cannot_load_is_told_with_its_last_words(world: World) -> None:
    world.store.add("alpha", stderr="error: no such architecture", exit=3)
    launcher = Launcher(world.settings, world.launch)
    try:
        result = await Trials(launcher, world.store.find("alpha"), ONE, 20.0).run(trial(0.5))
    finally:
        await launcher.close()
    assert isinstance(result, Failed)
    assert result.reason.endswith("ended with exit code 3 while loading: error: no such architecture")
