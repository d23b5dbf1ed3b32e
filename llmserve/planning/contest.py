"""Which candidate is the fastest, found in a given time although speeds vary from one measurement to the next. Pure.

Every speed is taken as a ratio to that of the rules' plan at about the same time, since machines get faster and slower.
All candidates are looked at once; the best ones and what they choose together are then measured in rounds. What wins
must be faster than the rules' plan by more than the noise, which is how much that plan's own speed varies.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TypeAlias

from llmserve.errors import WorkerDied
from llmserve.planning.candidates import Candidate, Case, Shape, candidates, together
from llmserve.planning.formatting import human_bytes
from llmserve.planning.measurements import TunedChoices

# Seconds of one measurement: at first, and the bounds of all later ones.
_FIRST_WINDOW = 4.0
_SHORTEST_WINDOW, _LONGEST_WINDOW = 2.0, 8.0
# Of the time, what the first look may take.
_LOOK_SHARE = 0.5
# Candidates between two measurements of the rules' plan.
_LOOKS_PER_RULES = 3
_FINALISTS = 4
_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 8
# What is taken for noise where less was seen, or nothing yet; and where nothing can be said any more.
_LEAST_NOISE, _UNKNOWN_NOISE, _MOST_NOISE = 0.01, 0.05, 0.2
# Of a normal distribution: its standard deviation by the median of absolute deviations, and that of the difference
# between a value and the median of three others.
_DEVIATION_OF_MEDIAN, _DEVIATION_OF_DIFFERENCE = 1.48, 1.2


@dataclass(frozen=True, slots=True)
class Trial:
    """What to measure next, and for how long once it runs."""

    candidate: Candidate
    window_seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What a trial gave, and the seconds that it took in all."""

    tokens_per_second: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a trial gave nothing, in a sentence, and the seconds that it took."""

    reason: str
    seconds: float


Result: TypeAlias = Measured | Failed


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of a candidate: its speed and the ratio to the rules' plan, or why it has none.

    `measurements` counts those that the speed is the median of.
    """

    candidate: Candidate
    tokens_per_second: float | None = None
    ratio: float | None = None
    measurements: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a contest. `standings`: the rules' plan, then all others, fastest first, those without a speed last.

    `winner` has no choices where nothing is faster than the rules' plan by more than the `noise`, a share of the speed.
    `compared`: there was time to measure candidates, and those that looked fast a second time.
    """

    shape: Shape
    standings: tuple[Standing, ...]
    winner: TunedChoices
    noise: float
    compared: bool

    @property
    def certain(self) -> bool:
        """Whether something was found out: what is fast while others keep the machine busy may not be without them."""
        return self.compared and self.noise <= _MOST_NOISE


def contest(case: Case, seconds: float) -> Generator[Trial, Result, Verdict]:
    """Yields what to measure, is sent what that gave, and returns the verdict after about `seconds`.

    Raises `WorkerDied` where the rules' plan itself cannot be measured.
    """
    rules, *others = candidates(case)
    clock = _Clock(seconds)
    look = _Series(rules)
    yield from _measure(look, clock, rules, _FIRST_WINDOW)
    fitting = [candidate for candidate in others if candidate.plan.fits]
    yield from _look(look, clock, fitting)
    final = _Series(rules)
    yield from _final(case, look, final, clock, _promising(look, fitting))
    return _verdict(case, look, final, others)


class _Clock:
    """The time of a contest, which passes with the trials."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.left = seconds
        self._overheads: list[float] = []

    @property
    def overhead(self) -> float:
        """What a trial takes beyond its window; there was one."""
        return fmean(self._overheads)

    def passed(self, seconds: float, window: float) -> None:
        self.left -= seconds
        self._overheads.append(seconds - window)

    def window(self, trials: int, reserve: float = 0.0) -> float:
        """How long each of so many trials may measure if `reserve` seconds are to be left; negative: they cannot."""
        return (self.left - reserve) / trials - self.overhead


@dataclass(slots=True)
class _Series:
    """Measurements in the order they were made, those of the rules' plan between the others."""

    rules: Candidate
    made: list[tuple[Candidate, float]] = field(default_factory=list)
    failures: dict[Candidate, str] = field(default_factory=dict)

    def speeds_of(self, candidate: Candidate) -> list[float]:
        return [speed for measured, speed in self.made if measured is candidate]

    def ratio(self, candidate: Candidate) -> float:
        """The ratio of the candidate's speeds to those of the rules' plan about that time; it has some."""
        # Medians: that the machine did something else for a moment is nobody's fault.
        return median(
            speed / self._level(place, self._places_of_rules())
            for place, (measured, speed) in enumerate(self.made)
            if measured is candidate
        )

    def ranked(self, some: Sequence[Candidate]) -> list[Candidate]:
        """Those that were measured and never failed, the fastest first."""
        measured = [candidate for candidate in some if self.speeds_of(candidate) and candidate not in self.failures]
        return sorted(measured, key=self.ratio, reverse=True)

    def noise(self) -> float:
        """How much one measurement is off, as a share: the standard deviation of the rules' plan from its own level."""
        places = self._places_of_rules()
        if len(places) < 2:
            return _UNKNOWN_NOISE
        off = [
            abs(math.log(self.made[place][1] / self._level(place, [other for other in places if other != place])))
            for place in places
        ]
        return max(_LEAST_NOISE, median(off) * _DEVIATION_OF_MEDIAN / _DEVIATION_OF_DIFFERENCE)

    def _places_of_rules(self) -> list[int]:
        return [place for place, (measured, _) in enumerate(self.made) if measured is self.rules]

    def _level(self, place: int, of: Sequence[int]) -> float:
        """The median of the speeds at the three places of `of` that are next to `place`."""
        return median(self.made[near][1] for near in sorted(of, key=lambda other: abs(other - place))[:3])


def _measure(series: _Series, clock: _Clock, candidate: Candidate, window: float) -> Generator[Trial, Result, None]:
    result = yield Trial(candidate, window)
    clock.passed(result.seconds, window)
    if isinstance(result, Measured):
        series.made.append((candidate, result.tokens_per_second))
    elif candidate is series.rules:
        raise WorkerDied(f"the rules' plan cannot be measured: {result.reason}")
    else:
        series.failures[candidate] = result.reason


def _look(look: _Series, clock: _Clock, fitting: Sequence[Candidate]) -> Generator[Trial, Result, None]:
    """Measure each once, as many as there is time for, and the rules' plan between them."""
    reserve = (1 - _LOOK_SHARE) * clock.seconds
    trials = len(fitting) + len(fitting) // _LOOKS_PER_RULES + 1
    window = min(_LONGEST_WINDOW, max(_SHORTEST_WINDOW, clock.window(trials, reserve)))
    for number, candidate in enumerate(fitting, start=1):
        # Without the rules' plan after it, a candidate is hardly worth its time.
        if clock.left - 2 * (clock.overhead + window) < reserve:
            break
        yield from _measure(look, clock, candidate, window)
        if number % _LOOKS_PER_RULES == 0 or number == len(fitting):
            yield from _measure(look, clock, look.rules, window)


def _promising(look: _Series, some: Sequence[Candidate]) -> list[Candidate]:
    """Those that may be faster than the rules' plan, the fastest first."""
    return [candidate for candidate in look.ranked(some) if look.ratio(candidate) > 1 - look.noise()]


def _final(
    case: Case, look: _Series, final: _Series, clock: _Clock, best: Sequence[Candidate]
) -> Generator[Trial, Result, None]:
    """Measure the best, and what they choose together, in rounds with the rules' plan, each with half as many."""
    finalists = list(best[:_FINALISTS])
    better = [candidate for candidate in best if look.ratio(candidate) > 1 + look.noise() / 2]
    for winners in (better, better[:2]):
        joined = together(case, winners)
        known = [finalist.choices for finalist in finalists]
        if joined is not None and joined.plan.fits and joined.choices not in known:
            finalists.insert(0, joined)
    while finalists and clock.window(_trials(len(finalists), _FEWEST_ROUNDS)) < _SHORTEST_WINDOW:
        finalists.pop()
    if not finalists:
        return
    rounds = max(
        count
        for count in range(_FEWEST_ROUNDS, _MOST_ROUNDS + 1)
        if count == _FEWEST_ROUNDS or clock.window(_trials(len(finalists), count)) >= _FIRST_WINDOW
    )
    window = min(_LONGEST_WINDOW, clock.window(_trials(len(finalists), rounds)))
    for number in range(rounds):
        yield from _measure(final, clock, final.rules, window)
        for candidate in finalists if number % 2 else finalists[::-1]:
            yield from _measure(final, clock, candidate, window)
        ranked = final.ranked(finalists)
        finalists = ranked[: _following(len(ranked))]
        if not finalists:
            break
    yield from _measure(final, clock, final.rules, window)


def _following(finalists: int) -> int:
    """How many of so many finalists are in the round after this one."""
    return (finalists + 1) // 2


def _trials(finalists: int, rounds: int) -> int:
    """How many measurements so many rounds are, those of the rules' plan included."""
    trials = 1
    for _ in range(rounds):
        trials += 1 + finalists
        finalists = _following(finalists)
    return trials


def _verdict(case: Case, look: _Series, final: _Series, others: Sequence[Candidate]) -> Verdict:
    entrants = dict.fromkeys(candidate for candidate, _ in final.made if candidate is not final.rules)
    # The last one in the contest is the one that was measured most often.
    last = max(final.ranked(list(entrants)), key=lambda candidate: len(final.speeds_of(candidate)), default=None)
    series, fastest, ratio, noise = look, look.rules, 1.0, look.noise()
    if last is not None:
        series = final
        # Two means are compared, each of so many measurements; two standard deviations of their difference.
        rounds = len(final.speeds_of(last))
        noise = max(_LEAST_NOISE, 2 * math.sqrt(2 / rounds) * max(look.noise(), final.noise()))
        if final.ratio(last) > 1 + noise:
            fastest, ratio = last, final.ratio(last)
    rules_speed = median(series.speeds_of(series.rules))
    rest = sorted(
        (_standing(look, final, candidate) for candidate in dict.fromkeys((*entrants, *others))),
        key=lambda standing: -(standing.ratio or 0.0),
    )
    return Verdict(
        shape=case.shape,
        standings=(Standing(series.rules, rules_speed, 1.0, len(series.speeds_of(series.rules))), *rest),
        winner=TunedChoices(case.shape.name, case.shape.clients, fastest.choices, rules_speed * ratio, rules_speed),
        noise=noise,
        compared=last is not None or (bool(look.ranked(others)) and not _promising(look, others)),
    )


def _standing(look: _Series, final: _Series, candidate: Candidate) -> Standing:
    for series in (final, look):
        if (failure := series.failures.get(candidate)) is not None:
            return Standing(candidate, reason=failure)
        if speeds := series.speeds_of(candidate):
            return Standing(candidate, median(speeds), series.ratio(candidate), len(speeds))
    return Standing(candidate, reason=_why_not_measured(candidate))


def _why_not_measured(candidate: Candidate) -> str:
    if not candidate.plan.fits:
        lacking = sum(max(0, entry.total - (entry.available or entry.total)) for entry in candidate.plan.memory)
        return f"it needs {human_bytes(lacking)} more memory than is free"
    return "there was no time left"
