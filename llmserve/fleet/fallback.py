"""What to try when a plan could not be loaded. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmserve.planning.retry import MOST_RETRIES
from llmserve.settings import Settings
from llmserve.types import EnginePlan


@dataclass(frozen=True, slots=True)
class Wish:
    """What the planner is asked for: the user's settings, changed by what has failed so far.

    `too_large` is a plan that ran out of memory, so that a smaller one is wanted; `shrinks` counts how often that was.
    """

    settings: Settings
    too_large: EnginePlan | None = None
    shrinks: int = 0

    def after(self, plan: EnginePlan, *, out_of_memory: bool) -> Wish | None:
        """What to wish for now that `plan` has failed; None where the user's own settings leave nothing to try.

        Less where memory ran out, then the processor instead of a GPU.
        """
        if out_of_memory and self.shrinks < MOST_RETRIES:
            return Wish(self.settings, plan, self.shrinks + 1)
        if plan.engine == "llama.cpp" and plan.gpu_layers > 0 and self.settings.gpu_layers is None:
            return Wish(replace(self.settings, gpu_layers=0), None, self.shrinks)
        return None


def option(plan: EnginePlan) -> str:
    """The way of running a model that `plan` takes, in a few words; what failed is remembered under it."""
    return f"{plan.engine} on {' and '.join(plan.devices)}"


def described(plan: EnginePlan, first: EnginePlan, reason: str) -> str:
    """How `plan` differs from the `first` choice, and why, on one line."""
    if option(plan) != option(first):
        return f"{option(plan)} instead of {option(first)}: {reason}"
    return f"{_gib(plan)} instead of {_gib(first)} GiB of memory: {reason}"


def _gib(plan: EnginePlan) -> str:
    return f"{sum(memory.total for memory in plan.memory) / 2**30:.1f}"
