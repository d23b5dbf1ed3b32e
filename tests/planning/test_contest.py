"""The contest of candidates finds the fastest in its time, however speeds vary, and takes nothing for noise's sake."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from llmserve.errors import WorkerDied
from llmserve.planning.candidates import Candidate, Case, Shape, candidates
from llmserve.planning.contest import Failed, Measured, Result, Trial, Verdict, contest
from llmserve.planning.measurements import Choices, Knowledge
from llmserve.settings import Settings
from tests.planning.machines import machine, with_ram
from tests.planning.models import SMOLLM2_135M

OVERHEAD = 2.5
CASE = Case(machine("laptop_no_gpu"), SMOLLM2_135M, Settings(), Knowledge(), Shape("many-users", 16))


@dataclass
class FakeMachine:
    """Measures on a clock of its own: `faster` says by how much a choice changes the speed, `noise` how far it is off.

    `drift`: how much slower the machine gets in an hour. `fails`: why a choice cannot be measured.
    """

    faster: dict[str, float] = field(default_factory=dict)
    noise: float = 0.0
    drift: float = 0.0
    fails: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    clock: float = 0.0
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"machine {self.seed}")

    def true_ratio(self, choices: Choices) -> float:
        ratio = 1.0
        for part in choices.described().split(", "):
            ratio *= self.faster.get(part, 1.0)
        return ratio

    def measure(self, trial: Trial) -> Result:
        self.trials.append(trial)
        if (reason := self.fails.get(trial.candidate.name)) is not None:
            self.clock += 1.0
            return Failed(reason, 1.0)
        seconds = trial.window_seconds + OVERHEAD
        self.clock += seconds
        speed = 100 * self.true_ratio(trial.candidate.choices) * (1 - self.drift * self.clock / 3600)
        return Measured(speed * (1 + self._rng.gauss(0, self.noise)), seconds)

    def hold(self, seconds: float = 200, case: Case = CASE) -> Verdict:
        running = contest(case, seconds)
        trial = next(running)
        while True:
            try:
                trial = running.send(self.measure(trial))
            except StopIteration as end:
                assert isinstance(end.value, Verdict)
                return end.value


def names(case: Case) -> list[str]:
    return [candidate.name for candidate in candidates(case)]


def test_the_fastest_is_found_and_told_with_both_speeds() -> None:
    verdict = FakeMachine({"no drafts": 1.2, "5 threads": 0.6}).hold()
    assert verdict.winner.choices == Choices(speculation=False)
    assert (verdict.winner.shape, verdict.winner.clients) == ("many-users", 16)
    assert verdict.winner.tokens_per_second == pytest.approx(120)
    assert verdict.winner.rules_tokens_per_second == pytest.approx(100)
    assert verdict.certain


def test_what_is_faster_alone_is_tried_together() -> None:
    verdict = FakeMachine({"no drafts": 1.1, "threads waiting asleep": 1.15, "no flash attention": 1.03}).hold()
    assert verdict.winner.choices == Choices(wait_policy="passive", speculation=False, flash_attention=False)


def test_what_is_slower_together_is_not_taken_together() -> None:
    class Interfering(FakeMachine):
        def true_ratio(self, choices: Choices) -> float:
            both = choices.speculation is False and choices.wait_policy == "passive"
            return 0.8 if both else super().true_ratio(choices)

    verdict = Interfering({"no drafts": 1.1, "threads waiting asleep": 1.2}).hold()
    assert verdict.winner.choices == Choices(wait_policy="passive")


@pytest.mark.parametrize(("noise", "misses"), [(0.01, 0), (0.03, 2), (0.06, 6)])
def test_the_winner_is_nearly_as_fast_as_the_best_although_speeds_vary(noise: float, misses: int) -> None:
    rng = random.Random(f"truths {noise}")
    missed = 0
    for seed in range(40):
        faster = {name: rng.uniform(0.7, 1.25) for name in names(CASE)}
        fake = FakeMachine(faster | {"the rules' plan": 1.0}, noise, drift=2.0, seed=seed)
        winner = fake.hold().winner
        best = max(fake.true_ratio(trial.candidate.choices) for trial in fake.trials)
        missed += fake.true_ratio(winner.choices) < 0.95 * best
    assert missed <= misses


def test_a_machine_that_is_busy_for_a_moment_seldom_hides_the_best() -> None:
    class Bursts(FakeMachine):
        def measure(self, trial: Trial) -> Result:
            result = super().measure(trial)
            assert isinstance(result, Measured)
            slower = self._rng.uniform(0.1, 0.6) if self._rng.random() < 0.05 else 1.0
            return replace(result, tokens_per_second=result.tokens_per_second * slower)

    verdicts = [Bursts({"no drafts": 1.15}, 0.01, seed=seed).hold() for seed in range(60)]
    assert sum(verdict.winner.choices.speculation is False for verdict in verdicts) >= 48
    assert sum(verdict.certain for verdict in verdicts) >= 54


def test_where_nothing_is_faster_noise_seldom_takes_the_place_of_the_rules() -> None:
    winners = [FakeMachine(noise=0.03, drift=1.0, seed=seed).hold().winner.choices for seed in range(60)]
    assert sum(choices != Choices() for choices in winners) <= 10


def test_where_speeds_vary_too_much_nothing_is_certain() -> None:
    verdicts = [FakeMachine(noise=0.4, seed=seed).hold() for seed in range(20)]
    assert sum(verdict.certain for verdict in verdicts) <= 4


def test_a_candidate_that_fails_is_told_with_its_reason_and_the_rest_goes_on() -> None:
    verdict = FakeMachine({"no drafts": 1.2}, fails={"no flash attention": "it crashed"}).hold()
    assert verdict.winner.choices == Choices(speculation=False)
    failed = next(standing for standing in verdict.standings if standing.candidate.name == "no flash attention")
    assert (failed.tokens_per_second, failed.ratio, failed.reason) == (None, None, "it crashed")
    assert verdict.standings[-1] == failed


@pytest.mark.parametrize("time", [2, 3])
def test_what_fails_now_and_then_does_not_win(time: int) -> None:
    class Fragile(FakeMachine):
        def measure(self, trial: Trial) -> Result:
            before = [made.candidate.name for made in self.trials].count("no drafts")
            result = super().measure(trial)
            fails = trial.candidate.choices == Choices(speculation=False) and before + 1 >= time
            return Failed("it crashed", result.seconds) if fails else result

    verdict = Fragile({"no drafts": 1.3}).hold()
    assert verdict.winner.choices == Choices()
    (failed,) = [standing for standing in verdict.standings if standing.reason == "it crashed"]
    assert failed.candidate.name == "no drafts"


def test_without_the_rules_plan_there_is_no_contest() -> None:
    with pytest.raises(WorkerDied, match="it crashed"):
        FakeMachine(fails={"the rules' plan": "it crashed"}).hold()


def test_what_looked_fast_and_could_not_be_measured_again_leaves_it_open() -> None:
    class Slow(FakeMachine):
        def measure(self, trial: Trial) -> Result:
            return replace(super().measure(trial), seconds=25.0)

    verdict = Slow({"no drafts": 2.0, "12 threads": 2.0}).hold(170)
    assert verdict.standings[1].ratio == pytest.approx(2.0)
    assert verdict.winner.choices == Choices()
    assert not verdict.compared and not verdict.certain
    slower = Slow({candidate.name: 0.5 for candidate in candidates(CASE)[1:]}).hold(170)
    assert slower.compared and slower.certain


@pytest.mark.parametrize("seconds", [20, 45, 100, 300, 1200])
def test_the_time_is_kept(seconds: float) -> None:
    fake = FakeMachine({"no drafts": 1.1, "threads waiting asleep": 1.1}, noise=0.02)
    verdict = fake.hold(seconds)
    assert fake.clock <= seconds * 1.05
    assert all(trial.window_seconds >= 2 for trial in fake.trials)
    unmeasured = [standing for standing in verdict.standings if standing.reason is not None]
    assert {standing.reason for standing in unmeasured} <= {"there was no time left"}
    assert bool(unmeasured) == (seconds <= 100)


def test_standings_are_the_rules_and_then_the_fastest_first() -> None:
    verdict = FakeMachine({"no drafts": 1.2, "5 threads": 0.6}).hold()
    names = [standing.candidate.name for standing in verdict.standings]
    assert names[:2] == ["the rules' plan", "no drafts"]
    assert len(set(names)) == len(names) == len(candidates(CASE))
    ratios = [standing.ratio or 0 for standing in verdict.standings[1:]]
    assert ratios == sorted(ratios, reverse=True)
    assert names[-1] != "no drafts"


def test_what_does_not_fit_is_told_and_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def misfit(case: Case) -> tuple[Candidate, ...]:
        rules, other, *rest = candidates(case)
        ram = replace(other.plan.memory[0], available=2**20)
        return (rules, replace(other, plan=replace(other.plan, memory=(ram,), fits=False)), *rest)

    monkeypatch.setattr("llmserve.planning.contest.candidates", misfit)
    fake = FakeMachine()
    verdict = fake.hold()
    misfits = [standing for standing in verdict.standings if not standing.candidate.plan.fits]
    assert [standing.reason is not None and "more memory than is free" in standing.reason for standing in misfits] == [
        True
    ]
    assert all(trial.candidate.plan.fits for trial in fake.trials)


# --- which candidates there are ----------------------------------------------------------------------------------


def test_each_candidate_differs_from_the_rules_in_one_thing() -> None:
    rules, *others = candidates(CASE)
    assert rules.choices == Choices()
    for other in others:
        changed = {
            name
            for name in Choices.__slots__
            if getattr(Choices.of(other.plan), name) != getattr(Choices.of(rules.plan), name)
        }
        assert len(changed) == 1 or changed <= {"batch", "micro_batch"}, other.name


def test_what_settings_fix_is_not_varied() -> None:
    fixed = replace(CASE, settings=Settings(threads=3, speculation=True, kv_type="q8_0"), lossy=True)
    assert "no drafts" in names(CASE)
    assert "1 thread" not in names(fixed) and "no drafts" not in names(fixed)
    assert not any("cache" in name for name in names(fixed))


def test_quantized_keys_and_values_are_tried_only_where_they_are_allowed() -> None:
    assert not any("cache" in name for name in names(CASE))
    assert {"q8_0 cache", "q4_0 cache"} <= set(names(replace(CASE, lossy=True)))


@pytest.mark.parametrize(
    ("shape", "present", "absent"),
    [
        (Shape("one-user", 1), "no drafts", "one pool"),
        (Shape("many-users", 16), "one pool", "512 tokens a step, 128 a graph"),
        (Shape("long-prompts", 1), "512 tokens a step, 128 a graph", "no drafts"),
    ],
)
def test_only_what_matters_to_the_load_is_tried(shape: Shape, present: str, absent: str) -> None:
    found = names(replace(CASE, hardware=machine("xeon_amx"), shape=shape))
    assert present in found
    assert absent not in found


def test_a_gpu_that_holds_everything_leaves_threads_alone() -> None:
    found = names(replace(CASE, hardware=machine("rtx_3060_12gb")))
    assert not any("thread" in name for name in found)
    assert "2048 tokens a step, 2048 a graph" in found


def test_one_processor_leaves_no_threads_to_choose() -> None:
    found = names(replace(CASE, hardware=machine("container_1cpu_2gib")))
    assert not any(name.endswith(("thread", "threads")) for name in found)


def test_a_machine_of_which_nothing_is_known_has_candidates_too() -> None:
    assert len(candidates(replace(CASE, hardware=with_ram(CASE.hardware, None)))) > 2


def test_the_plan_of_a_candidate_is_the_one_that_its_victory_gives() -> None:
    candidate = CASE.candidate(Choices(threads=3, batch=256, micro_batch=128, speculation=False))
    plan = candidate.plan
    assert (plan.threads, plan.batch, plan.micro_batch, plan.speculation) == (3, 256, 128, False)
