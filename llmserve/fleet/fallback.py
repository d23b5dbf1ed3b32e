"""What to try when a plan could not be loaded. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmserve.settings import Settings
from llmserve.types import EnginePlan

# An out-of-memory shrinks the plan this often, each time by half.
SHRINKS = 2
_SMALLEST_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Wish:
    """What the planner is asked for: the user's settings, changed by what has failed so far.

    `shrinks` counts how often less context was asked for.
    """

    settings: Settings
    shrinks: int = 0

    def after(self, plan: EnginePlan, *, out_of_memory: bool) -> Wish | None:
        """What to wish for now that `plan` has failed; None where the user's own settings leave nothing to try.

        Less context where memory ran out, then the processor instead of a GPU.
        """
        settings = self.settings
        shorter = plan.context // 2
        may_shrink = self.shrinks < SHRINKS and (settings.context is None or self.shrinks)
        if out_of_memory and may_shrink and shorter >= _SMALLEST_CONTEXT:
            return Wish(replace(settings, context=shorter), self.shrinks + 1)
        if plan.engine == "llama.cpp" and plan.gpu_layers > 0 and settings.gpu_layers is None:
            return Wish(replace(settings, gpu_layers=0), self.shrinks)
        return None


def option(plan: EnginePlan) -> str:
    """The way of running a model that `plan` takes, in a few words; what failed is remembered under it."""
    return f"{plan.engine} on {' and '.join(plan.devices)}"


def described(plan: EnginePlan, first: EnginePlan, reason: str) -> str:
    """How `plan` differs from the `first` choice, and why, on one line."""
    if option(plan) != option(first):
        return f"{option(plan)} instead of {option(first)}: {reason}"
    return f"a context of {plan.context} instead of {first.context}: {reason}"
