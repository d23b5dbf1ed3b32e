"""What was measured on this machine of one model and one engine build, as the planner takes it. Pure data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmserve.planning.formatting import counted
from llmserve.types import DeviceMemory, EnginePlan, HardwareInfo, KvLayout, KvType, LoadShape, WaitPolicy

# A correction follows the worst of this many latest loads.
_LATEST_LOADS = 5
# A speed is that of so many latest runs, if they wrote enough for one.
_LATEST_RUNS = 5
_ENOUGH_TOKENS = 100


@dataclass(frozen=True, slots=True)
class DeviceBytes:
    """What a worker really took of one device ("ram", "cuda:0", ...)."""

    device: str
    bytes: int


@dataclass(frozen=True, slots=True)
class LoadMeasurement:
    """One load: what was planned, what it really took at most, and how long it was until the worker was ready."""

    estimated: tuple[DeviceMemory, ...]
    taken: tuple[DeviceBytes, ...]
    load_seconds: float


@dataclass(frozen=True, slots=True)
class Choices:
    """What of a plan decides about its speed alone; None: as the rules say."""

    threads: int | None = None
    wait_policy: WaitPolicy | None = None
    batch: int | None = None
    micro_batch: int | None = None
    kv_type: KvType | None = None
    flash_attention: bool | None = None
    kv_layout: KvLayout | None = None
    speculation: bool | None = None

    @classmethod
    def of(cls, plan: EnginePlan) -> Choices:
        """All of them, as `plan` has them."""
        return cls(
            threads=plan.threads,
            wait_policy=plan.wait_policy,
            batch=plan.batch,
            micro_batch=plan.micro_batch,
            kv_type=plan.kv_type,
            flash_attention=plan.flash_attention,
            kv_layout=plan.kv_layout,
            speculation=plan.speculation,
        )

    def completed_by(self, other: Choices) -> Choices:
        """These choices, and those of `other` where nothing is chosen here."""
        batch = other if self.batch is None else self
        return Choices(
            threads=other.threads if self.threads is None else self.threads,
            wait_policy=other.wait_policy if self.wait_policy is None else self.wait_policy,
            batch=batch.batch,
            micro_batch=batch.micro_batch,
            kv_type=other.kv_type if self.kv_type is None else self.kv_type,
            flash_attention=other.flash_attention if self.flash_attention is None else self.flash_attention,
            kv_layout=other.kv_layout if self.kv_layout is None else self.kv_layout,
            speculation=other.speculation if self.speculation is None else self.speculation,
        )

    def described(self) -> str:
        """What is chosen, in words; "the rules' plan" where nothing is."""
        words = []
        if self.threads is not None:
            words.append(counted(self.threads, "thread"))
        if self.wait_policy is not None:
            words.append("threads waiting " + ("awake" if self.wait_policy == "active" else "asleep"))
        if self.batch is not None:
            words.append(f"{self.batch} tokens a step, {self.micro_batch or self.batch} a graph")
        if self.kv_type is not None:
            words.append(f"{self.kv_type} cache")
        if self.flash_attention is not None:
            words.append(f"{'' if self.flash_attention else 'no '}flash attention")
        if self.kv_layout is not None:
            words.append("a stream for each sequence" if self.kv_layout == "split" else "one pool")
        if self.speculation is not None:
            words.append("drafts" if self.speculation else "no drafts")
        return ", ".join(words) or "the rules' plan"


@dataclass(frozen=True, slots=True)
class RunMeasurement:
    """What a worker computed from its load to its end, and how many seconds its steps took."""

    choices: Choices
    gpu_layers: int
    steps: int
    step_seconds: float
    prompt_tokens: int
    generated_tokens: int


def described_load(shape: LoadShape, clients: int) -> str:
    """A load in words: "one user", "16 users at once", "long prompts"."""
    return {"one-user": "one user", "many-users": f"{clients} users at once", "long-prompts": "long prompts"}[shape]


@dataclass(frozen=True, slots=True)
class TunedChoices:
    """The fastest of the candidates that were measured under one shape of load, and how fast the rules' plan was.

    Its choices are those that the rules would not have made.
    """

    shape: LoadShape
    clients: int
    choices: Choices
    tokens_per_second: float
    rules_tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Everything measured that bears on a plan; `loads` and `runs` latest first, `tuned` at most one for each shape."""

    loads: tuple[LoadMeasurement, ...] = ()
    tuned: tuple[TunedChoices, ...] = ()
    runs: tuple[RunMeasurement, ...] = ()

    def correction(self, device: str) -> int:
        """Bytes to add to the estimate for `device`: what the latest loads took beyond it, or (negative) left of it.

        Never so much less that the runtime's own overhead would be counted twice: only weights, cache and buffers
        that the engine is known to allocate are certain.
        """
        corrections = [found for load in self.loads if (found := _correction(load, device)) is not None]
        return max(corrections[:_LATEST_LOADS], default=0)

    def for_shape(self, shape: LoadShape | None) -> TunedChoices | None:
        """The choices for this shape; where none is asked for, those for many users, else those for one."""
        wanted: Sequence[LoadShape] = ("many-users", "one-user") if shape is None else (shape,)
        by_shape = {tuned.shape: tuned for tuned in self.tuned}
        return next((by_shape[name] for name in wanted if name in by_shape), None)

    def speed(self, plan: EnginePlan) -> float | None:
        """Tokens written in a second of computing by the latest runs of such a plan; None where too few were."""
        wanted = (Choices.of(plan), plan.gpu_layers)
        runs = [run for run in self.runs if (run.choices, run.gpu_layers) == wanted][:_LATEST_RUNS]
        tokens, seconds = sum(run.generated_tokens for run in runs), sum(run.step_seconds for run in runs)
        return tokens / seconds if tokens >= _ENOUGH_TOKENS and seconds > 0 else None


NOTHING_KNOWN = Knowledge()


def expected_at_load(plan: EnginePlan) -> tuple[DeviceMemory, ...]:
    """The estimate for a worker that is ready and has not been used: a split cache opens with its first streams."""
    if plan.kv_layout != "split" or not 0 < plan.first_streams < plan.parallel:
        return plan.memory
    ram, *others = plan.memory
    return (replace(ram, kv_cache=ram.kv_cache * plan.first_streams // plan.parallel), *others)


def taken_bytes(plan: EnginePlan, resident_bytes: int | None, hardware_after: HardwareInfo) -> tuple[DeviceBytes, ...]:
    """What the load of `plan` took: in RAM what its process holds, on a GPU by how much its free memory fell.

    A device whose figures are not known, or which shares the RAM, is left out. One load at a time per device is what
    makes the difference that of this load.
    """
    free_after = {f"{gpu.device}:{gpu.index}": gpu.free_memory for gpu in hardware_after.gpus if not gpu.unified_memory}
    taken = []
    for entry in plan.memory:
        if entry.device == "ram":
            if resident_bytes is not None:
                taken.append(DeviceBytes("ram", resident_bytes))
            continue
        left = free_after.get(entry.device)
        if left is not None and entry.available is not None and entry.available > left:
            taken.append(DeviceBytes(entry.device, entry.available - left))
    return tuple(taken)


def _correction(load: LoadMeasurement, device: str) -> int | None:
    estimated = next((entry for entry in load.estimated if entry.device == device), None)
    taken = next((entry.bytes for entry in load.taken if entry.device == device), None)
    if estimated is None or taken is None:
        return None
    # Saved prefixes are a limit, not something a load takes; and a correction is not to be corrected again.
    expected = estimated.total - estimated.saved_prefixes - estimated.correction
    return max(-estimated.overhead, taken - expected)
