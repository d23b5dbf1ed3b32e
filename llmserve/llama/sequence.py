"""One text being written: its tokens, how far they are computed, and what it still may do."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from enum import Enum, auto

from llmserve.llama.speculation import Speculation

_ages = itertools.count()


class Phase(Enum):
    WAITING = auto()
    RUNNING = auto()
    DONE = auto()


@dataclass(eq=False, slots=True)
class Sequence:
    """What the scheduler knows of a sequence.

    `tokens` are the prompt's followed by the generated ones; `computed` of them are in the KV cache under `slot`.
    A sequence with one token left to compute is decoding, one with more is in prefill: there is no other difference,
    so a preempted sequence simply starts again with `computed == 0`. `cached` counts the prompt tokens that were
    taken from another sequence's cells at its first admission.

    `scores_prompt`: the logits behind every token of its prompt are wanted, so none of it may come from elsewhere.
    `speculation` drafts its text ahead, None: nothing does. `adapter` is the number of the decoder's set of adapters
    that it is computed with.
    """

    tokens: list[int]
    prompt_length: int
    max_length: int
    streamed: bool = False
    phase: Phase = Phase.WAITING
    slot: int | None = None
    computed: int = 0
    cached: int | None = None
    scores_prompt: bool = False
    speculation: Speculation | None = None
    adapter: int = 0
    preemptions: int = 0
    age: int = field(default_factory=lambda: next(_ages))

    @property
    def pending(self) -> int:
        """Tokens still to compute before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length
