"""Whether what tuning picks is nearly as fast as the best of all candidates in a later run.

    python -m benchmarks.tuning MODEL.gguf

tunes for 1 and for 16 clients, then measures every candidate again, in rounds that each go through all of them in an
order of their own. A candidate's speed is taken as a ratio to the mean of its round, since machines get faster and
slower, and the median over the rounds counts. Exit code 1 where the pick has less than 95 % of the best one's.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
from pathlib import Path

from llmserve.engines.machine import probe
from llmserve.fleet.launcher import Launcher
from llmserve.fleet.trials import Trials
from llmserve.planning.candidates import Candidate, Case, candidates, shapes
from llmserve.planning.contest import Measured, Result, Trial, contest
from llmserve.planning.measurements import NOTHING_KNOWN
from llmserve.settings import Settings
from llmserve.store.inspection import inspect_model
from llmserve.types import InstalledModel

LEAST_SHARE = 0.95
WINDOW_SECONDS = 6.0
LOAD_SECONDS = 120.0


async def tuned_and_checked(path: Path, clients: int, minutes: float, rounds: int, home: Path) -> float:
    """The pick's speed as a share of the best candidate's in the later run."""
    (shape,) = shapes(clients)
    settings = Settings(home=home, prefix_disk=0)
    case = Case(probe(), inspect_model(path), settings, NOTHING_KNOWN, shape)
    launcher = Launcher(settings)
    model = InstalledModel("model", (), "gguf", "", str(path), 0, "", "", 0.0)
    trials = Trials(launcher, model, shape, LOAD_SECONDS)
    try:
        verdict = await trials.hold(contest(case, minutes * 60), _told)
        pick = case.candidate(verdict.winner.choices)
        print(f"\n{shape.title}: picked {pick.name} (noise {verdict.noise:.0%}); all candidates again:", flush=True)
        others = [candidate for candidate in candidates(case) if candidate.choices != pick.choices]
        shares = await later_run(trials, [pick, *others], rounds)
    finally:
        await launcher.close()
    best = max(shares.values())
    for candidate, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"{share / best:7.1%}  {candidate.name}{'   <- the pick' if candidate is pick else ''}")
    return shares[pick] / best


async def later_run(trials: Trials, fitting: list[Candidate], rounds: int) -> dict[Candidate, float]:
    """The median ratio of each candidate's speed to the mean of its round; those that fail are left out."""
    ratios: dict[Candidate, list[float]] = {}
    for number in range(rounds):
        order = random.Random(f"round {number}").sample(fitting, len(fitting))
        results = {candidate: await trials.run(Trial(candidate, WINDOW_SECONDS)) for candidate in order}
        speeds = {one: result.tokens_per_second for one, result in results.items() if isinstance(result, Measured)}
        mean = statistics.fmean(speeds.values())
        for candidate, speed in speeds.items():
            ratios.setdefault(candidate, []).append(speed / mean)
    return {candidate: statistics.median(found) for candidate, found in ratios.items()}


def _told(trial: Trial, result: Result | None) -> None:
    if result is not None:
        what = f"{result.tokens_per_second:.1f}" if isinstance(result, Measured) else result.reason
        print(f"  {trial.candidate.name}: {what}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--minutes", type=float, default=4.0, help="of tuning, for each number of clients")
    parser.add_argument("--rounds", type=int, default=5, help="of the later run")
    asked = parser.parse_args()
    path, worst = asked.model.absolute(), 1.0
    for clients in asked.clients:
        with tempfile.TemporaryDirectory(prefix="llm") as home:
            share = asyncio.run(tuned_and_checked(path, clients, asked.minutes, asked.rounds, Path(home)))
        print(f"{clients} clients: the pick has {share:.1%} of the best", flush=True)
        worst = min(worst, share)
    return 0 if worst >= LEAST_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
