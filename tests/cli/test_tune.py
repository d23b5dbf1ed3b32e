"""`tune`: what is measured is shown and kept, beside a server nothing is measured, and what fails keeps nothing."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from llmserve.planning.contest import Failed, Measured, Result, Trial
from llmserve.planning.measurements import Choices, Knowledge, TunedChoices
from llmserve.state.database import StateDatabase, key_of
from llmserve.types import InstalledModel, ModelInfo, from_json
from tests.cli.conftest import Invoke
from tests.cli.fakes import FakeGateway, installed
from tests.cli.test_server_commands import READY, running
from tests.planning.machines import machine
from tests.planning.models import LLAMA31_8B_BF16, NOMIC_EMBED, SMOLLM2_135M

HARDWARE = machine("laptop_no_gpu")
MODEL = installed()
KEY = key_of(HARDWARE, MODEL, "llama.cpp")


@dataclass
class Bench:
    """What `tune` finds: a model, a machine, and trials that give what `measure` says on a clock without real time."""

    home: Path
    info: ModelInfo = SMOLLM2_135M
    measure: Callable[[Trial], Result] = field(default=lambda trial: Measured(speed(trial), trial.window_seconds + 2))
    trials: list[Trial] = field(default_factory=list)

    def find(self, name: str) -> InstalledModel:
        return MODEL

    def inspect(self, name: str) -> ModelInfo:
        return self.info

    async def run(self, trial: Trial) -> Result:
        self.trials.append(trial)
        return self.measure(trial)

    @property
    def kept(self) -> tuple[TunedChoices, ...]:
        return StateDatabase.in_home(self.home).knowledge(KEY).tuned


def speed(trial: Trial) -> float:
    return 100 * (1 if trial.candidate.plan.speculation else 1.2) * (1 if trial.candidate.plan.threads > 5 else 0.5)


@pytest.fixture
def bench(private_home: Path, monkeypatch: pytest.MonkeyPatch, no_gateway: int) -> Bench:
    (private_home / "locks").mkdir(parents=True)
    bench = Bench(private_home)
    monkeypatch.setattr("llmserve.cli.models.open_store", lambda settings: bench)
    monkeypatch.setattr("llmserve.engines.machine.probe_for", lambda settings: HARDWARE)
    monkeypatch.setattr("llmserve.hardware.surroundings.busy_processors", lambda: 0.1)
    monkeypatch.setattr("llmserve.fleet.trials.Trials.run", lambda self, trial: bench.run(trial))
    return bench


def test_the_fastest_of_each_load_is_shown_kept_and_planned(invoke: Invoke, bench: Bench) -> None:
    result = invoke("tune", "tiny")
    assert result.code == 0
    assert [(tuned.shape, tuned.clients) for tuned in bench.kept] == [
        ("long-prompts", 1),
        ("many-users", 16),
        ("one-user", 1),
    ]
    assert [tuned.choices for tuned in bench.kept] == [
        Choices(),
        Choices(speculation=False),
        Choices(speculation=False),
    ]
    one_user, many_users, long_prompts = result.out.split("\n\n")[:3]
    assert one_user.splitlines()[0].split() == ["ONE", "USER", "TOKENS/S", "RATIO"]
    assert one_user.splitlines()[1].startswith("the rules' plan")
    assert "1.20" in one_user.splitlines()[2]
    assert "the fastest: no drafts, 1.20 times the rules' plan" in one_user
    assert many_users.startswith("16 USERS AT ONCE")
    assert "nothing is faster than the rules' plan" in long_prompts
    assert "no drafts: 120.0 tokens/s" in result.err
    assert result.err.endswith("`llmserve plan tiny:1b` says why\n")
    planned = invoke("plan", "tiny")
    assert "no drafts: the fastest measured here for 16 users at once (120 tokens per second, 1.20 times" in planned.out


def test_bars_are_as_long_as_speeds(invoke: Invoke, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmserve.cli.bars._has_blocks", lambda: False)
    lines = invoke("tune", "tiny", "--clients", "1").out.splitlines()
    bars = {line.split("  ")[0]: line.count("#") for line in lines if "#" in line}
    assert bars["no drafts"] == 32
    assert bars["the rules' plan"] == 27
    assert bars["5 threads"] == 13


def test_one_kind_of_load_as_json(invoke: Invoke, bench: Bench) -> None:
    result = invoke("tune", "tiny", "--clients", "4", "--json")
    (verdict,) = json.loads(result.out)
    assert (verdict["shape"], verdict["clients"], verdict["kept"]) == ("many-users", 4, True)
    assert from_json(TunedChoices, json.dumps(verdict["winner"])) == bench.kept[0]
    best = verdict["candidates"][1]
    assert (best["name"], best["choices"]["speculation"], best["ratio"]) == ("no drafts", False, pytest.approx(1.2))


def test_the_minutes_are_shared_by_the_loads(invoke: Invoke, bench: Bench) -> None:
    invoke("tune", "tiny", "--minutes", "6")
    assert 5.5 * 60 < sum(trial.window_seconds + 2 for trial in bench.trials) < 6.1 * 60
    bench.trials.clear()
    invoke("tune", "tiny", "--minutes", "2", "--clients", "1")
    assert sum(trial.window_seconds + 2 for trial in bench.trials) < 2.1 * 60


def test_caches_that_change_answers_are_tried_where_that_is_allowed(invoke: Invoke, bench: Bench) -> None:
    assert "cache" not in invoke("tune", "tiny", "--clients", "1").out
    lines = invoke("tune", "tiny", "--clients", "1", "--quantized-kv").out.splitlines()
    (line,) = [line for line in lines if line.startswith("q8_0 cache")]
    assert line.endswith("changes answers a little")


def test_a_candidate_that_fails_has_its_reason_in_the_table(invoke: Invoke, bench: Bench) -> None:
    def measure(trial: Trial) -> Result:
        if not trial.candidate.plan.flash_attention:
            return Failed("the worker of `tiny:1b` was killed by SIGSEGV", 3.0)
        return Measured(speed(trial), trial.window_seconds + 2)

    bench.measure = measure
    result = invoke("tune", "tiny", "--clients", "1")
    assert result.code == 0
    (line,) = [line for line in result.out.splitlines() if line.startswith("no flash attention")]
    assert line.endswith("was killed by SIGSEGV")
    assert bench.kept[0].choices == Choices(speculation=False)


def test_without_a_worker_nothing_is_kept(invoke: Invoke, bench: Bench) -> None:
    bench.measure = lambda trial: Failed("it ended with exit code 3", 1.0)
    result = invoke("tune", "tiny")
    assert (result.code, result.out) == (1, "")
    assert "error: the rules' plan cannot be measured: it ended with exit code 3" in result.err
    assert bench.kept == ()


def test_speeds_that_vary_too_much_are_told_and_not_kept(invoke: Invoke, bench: Bench) -> None:
    wild = iter([1.0, 7.0, 2.0, 9.0] * 100)
    bench.measure = lambda trial: Measured(next(wild), trial.window_seconds + 2)
    result = invoke("tune", "tiny", "--clients", "1")
    assert result.code == 0
    assert "so nothing is kept: measure again when nothing else runs" in result.err
    assert bench.kept == ()


def test_without_time_to_compare_nothing_is_kept(invoke: Invoke, bench: Bench) -> None:
    bench.measure = lambda trial: Measured(1.0, 100.0)
    result = invoke("tune", "tiny", "--clients", "1", "--minutes", "2")
    assert result.code == 0
    assert len(bench.trials) == 1
    assert "no time to compare enough, so nothing is kept: allow more --minutes" in result.err
    assert "nothing is faster" not in result.out
    assert bench.kept == ()


def test_other_processes_that_compute_are_told(invoke: Invoke, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "warning" not in invoke("tune", "tiny", "--clients", "1").err
    monkeypatch.setattr("llmserve.hardware.surroundings.busy_processors", lambda: 5.0)
    assert "warning: other processes keep 5.0 of" in invoke("tune", "tiny", "--clients", "1").err


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (replace(READY, leases=0), "has `tiny:1b` loaded"),
        (replace(READY, name="other:1b"), "computes for `other:1b`"),
        (replace(READY, name="other:1b", leases=0, state="loading"), "computes for `other:1b`"),
    ],
)
def test_beside_a_server_that_would_disturb_nothing_is_measured(
    invoke: Invoke, bench: Bench, gateway: FakeGateway, status: object, words: str
) -> None:
    running(gateway, status)  # type: ignore[arg-type]
    result = invoke("tune", "tiny")
    assert result.code == 1
    assert words in result.err and "hint: " in result.err
    assert bench.trials == []


def test_beside_a_server_that_does_nothing_it_is_measured(invoke: Invoke, bench: Bench, gateway: FakeGateway) -> None:
    running(gateway, replace(READY, name="other:1b", leases=0))
    assert invoke("tune", "tiny", "--clients", "1").code == 0
    assert len(bench.kept) == 1


def test_what_a_server_spoilt_meanwhile_is_not_kept(invoke: Invoke, bench: Bench, gateway: FakeGateway) -> None:
    running(gateway)

    def measure(trial: Trial) -> Result:
        running(gateway, READY)
        return Measured(speed(trial), trial.window_seconds + 2)

    bench.measure = measure
    assert invoke("tune", "tiny").code == 1
    assert bench.kept == ()


def test_an_interruption_keeps_what_is_whole_and_nothing_half(invoke: Invoke, bench: Bench) -> None:
    def measure(trial: Trial) -> Result:
        if bench.kept:
            os.kill(os.getpid(), signal.SIGINT)
        return Measured(speed(trial), trial.window_seconds + 2)

    bench.measure = measure
    assert invoke("tune", "tiny").code == 130
    assert [tuned.shape for tuned in bench.kept] == ["one-user"]


def test_two_do_not_measure_at_the_same_time(invoke: Invoke, bench: Bench) -> None:
    with (bench.home / "locks" / "tune").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = invoke("tune", "tiny")
    assert (result.code, bench.trials) == (1, [])
    assert "another `llmserve tune` is measuring" in result.err
    assert invoke("tune", "tiny", "--clients", "1").code == 0


@pytest.mark.parametrize(
    ("info", "words"), [(NOMIC_EMBED, "is an embedding model"), (LLAMA31_8B_BF16, "is in safetensors format")]
)
def test_models_for_which_there_is_nothing_to_choose(invoke: Invoke, bench: Bench, info: ModelInfo, words: str) -> None:
    bench.info = info
    result = invoke("tune", "tiny")
    assert (result.code, bench.trials) == (2, [])
    assert words in result.err


@pytest.mark.parametrize("arguments", [("--minutes", "2"), ("--minutes", "0"), ("--clients", "0"), ("--clients", "x")])
def test_what_cannot_be_measured_is_refused(invoke: Invoke, bench: Bench, arguments: tuple[str, ...]) -> None:
    result = invoke("tune", "tiny", *arguments)
    assert result.code == 2
    assert "error: " in result.err and "hint: " in result.err
    assert bench.trials == []


def test_a_winner_that_cannot_be_kept_is_an_error(invoke: Invoke, bench: Bench) -> None:
    (bench.home / "state.db").mkdir()
    result = invoke("tune", "tiny", "--clients", "1")
    assert result.code == 71
    assert "cannot be kept in state.db" in result.err


def test_other_builds_models_and_machines_do_not_use_it(invoke: Invoke, bench: Bench) -> None:
    invoke("tune", "tiny", "--clients", "1")
    database = StateDatabase.in_home(bench.home)
    newer = replace(HARDWARE, engines=tuple(replace(engine, version="9.9") for engine in HARDWARE.engines))
    others = (
        key_of(newer, MODEL, "llama.cpp"),
        key_of(HARDWARE, replace(MODEL, sha256="f" * 64), "llama.cpp"),
        key_of(machine("xeon_amx"), MODEL, "llama.cpp"),
    )
    assert database.knowledge(KEY).tuned != ()
    assert [database.knowledge(key) for key in others] == [Knowledge()] * 3
