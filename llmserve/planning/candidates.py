"""Which ways of running a model on this machine are worth measuring against the rules' plan. Pure.

A candidate changes one thing of the rules' plan, and its plan is made by the planner as it will be made again once the
candidate has won: so nothing is measured that could not be had. What makes no difference is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llmserve.planning.measurements import Choices, Knowledge, TunedChoices, described_load
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.types import EnginePlan, HardwareInfo, KvType, LoadShape, ModelInfo

DEFAULT_CLIENTS = 16
# Tokens per step and per graph. Short prompts do not come in more sizes than two.
_CPU_BATCHES = ((256, 256), (1024, 1024), (512, 128), (512, 256), (2048, 512))
_GPU_BATCHES = ((2048, 1024), (2048, 2048), (1024, 512), (4096, 1024))
_BATCHES_OF_SHORT_PROMPTS = 2
_SMALLER_KV_TYPES: tuple[KvType, ...] = ("q8_0", "q4_0")


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of load: what is asked, by how many clients at once."""

    name: LoadShape
    clients: int

    @property
    def title(self) -> str:
        return described_load(self.name, self.clients)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One way of running a model. `plan.fits` is False where the memory does not suffice by the estimate."""

    choices: Choices
    plan: EnginePlan

    @property
    def name(self) -> str:
        return self.choices.described()


@dataclass(frozen=True, slots=True)
class Case:
    """What candidates are made for. `lossy`: also those whose KV cache is less precise, which changes answers."""

    hardware: HardwareInfo
    model: ModelInfo
    settings: Settings
    knowledge: Knowledge
    shape: Shape
    lossy: bool = False

    def candidate(self, choices: Choices) -> Candidate:
        """The plan that is made where `choices` are the fastest that was measured."""
        # The speeds serve the plan's reason alone, which nobody reads here.
        winner = TunedChoices(self.shape.name, self.shape.clients, choices, 1.0, 1.0)
        settings = replace(self.settings, load_shape=self.shape.name)
        return Candidate(choices, plan(self.hardware, self.model, settings, replace(self.knowledge, tuned=(winner,))))


def shapes(clients: int | None) -> tuple[Shape, ...]:
    """The loads to measure: the one with so many clients, or all."""
    if clients is None:
        return (Shape("one-user", 1), Shape("many-users", DEFAULT_CLIENTS), Shape("long-prompts", 1))
    return (Shape("one-user" if clients == 1 else "many-users", clients),)


def candidates(case: Case) -> tuple[Candidate, ...]:
    """The rules' plan, and then what differs from it in one thing each: what may matter most comes first."""
    rules = case.candidate(Choices())
    found = [rules]
    for choices in _single(case, rules.plan):
        candidate = case.candidate(choices)
        if all(Choices.of(candidate.plan) != Choices.of(other.plan) for other in found):
            found.append(candidate)
    return tuple(found)


def together(case: Case, winners: Sequence[Candidate]) -> Candidate | None:
    """What `winners` (best first) choose, in one candidate; None where that is nothing new.

    Of two that choose the same thing, the better one counts.
    """
    choices = Choices()
    for winner in winners:
        choices = choices.completed_by(winner.choices)
    candidate = case.candidate(choices)
    known = {Choices.of(winner.plan) for winner in winners}
    return candidate if winners and Choices.of(candidate.plan) not in known else None


def _single(case: Case, rules: EnginePlan) -> Iterator[Choices]:
    """Choices of one thing each that may differ from `rules`; the planner has the last word."""
    on_cpu = "cpu" in rules.devices
    if on_cpu:
        yield from (Choices(threads=count) for count in _thread_counts(case.hardware, rules.threads))
        yield Choices(wait_policy="passive" if rules.wait_policy == "active" else "active")
    if case.shape.name != "long-prompts":
        yield Choices(speculation=not rules.speculation)
    if case.shape.clients > 1:
        yield Choices(kv_layout="unified")
    yield Choices(flash_attention=not rules.flash_attention)
    if case.lossy:
        yield from (Choices(kv_type=kv_type) for kv_type in _SMALLER_KV_TYPES)
    if case.shape.name != "one-user":
        batches = _CPU_BATCHES if on_cpu else _GPU_BATCHES
        for batch, micro_batch in batches if case.shape.name == "long-prompts" else batches[:_BATCHES_OF_SHORT_PROMPTS]:
            yield Choices(batch=batch, micro_batch=micro_batch)


def _thread_counts(hardware: HardwareInfo, planned: int) -> list[int]:
    """Every processor that may be used, one thread less than planned, and half of them."""
    counts = (hardware.cpu.usable_cpus, planned - 1, planned // 2)
    return [count for count in dict.fromkeys(counts) if count >= 1]
