"""What the engine is given, and what it gives back: answers being written, their text and their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llmserve.errors import LlmserveError
from llmserve.llama.logprobs import TokenScore
from llmserve.llama.sampler import Sampler
from llmserve.llama.scored_text import Part, ScoredText
from llmserve.llama.sequence import Sequence as TokenSequence
from llmserve.llama.text_stream import TextStream
from llmserve.llama.token_rule import TokenRule

FinishReason = Literal["stop", "length"]


@dataclass(eq=False, slots=True)
class Generation:
    """One answer being written: `index` among the request's answers. Belongs to the engine thread once submitted.

    `top`: every token is scored, beside so many of the likeliest at its place; None: none is. Where the sequence says
    so, the tokens of its prompt are scored too. With `max_tokens` 0 that is all, and no token is written.
    """

    index: int
    sequence: TokenSequence
    sampler: Sampler
    text: TextStream
    max_tokens: int
    constraint: TokenRule | None = None
    # Bytes to show for control tokens, which are otherwise invisible in text.
    shown: Mapping[int, bytes] = field(default_factory=dict)
    top: int | None = None
    scored_text: ScoredText = field(default_factory=ScoredText)
    prompt_scores: list[TokenScore] = field(default_factory=list)
    started: float | None = None
    first_token: float | None = None

    def follow(self, rule: TokenRule | None) -> None:
        """Hold the answer to `rule`, and draft what the rule forces."""
        self.constraint = rule
        if rule is not None and self.sequence.speculation is not None:
            self.sequence.speculation.forced = rule.forced


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one answer, and why it ended if it did. Both may be absent in a step that shows nothing yet.

    Where scores were asked for, `parts` are the same text by its tokens, and the answer's first delta has the scores
    of its prompt from the second token on, if those were asked for too.
    """

    index: int
    text: str
    finish_reason: FinishReason | None = None
    parts: tuple[Part, ...] = ()
    prompt_scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """The request is over, with an error."""

    error: LlmserveError


@dataclass(eq=False, slots=True)
class Job:
    """A request as the engine sees it. `deliver` is called on the event loop with everything of one step."""

    generations: Sequence[Generation]
    deliver: Callable[[Delta | Failure], None]
    unfinished: int = field(init=False)

    def __post_init__(self) -> None:
        self.unfinished = len(self.generations)


def merged(outbox: Sequence[tuple[Job, Delta | Failure]]) -> list[tuple[Job, Delta | Failure]]:
    """The same events with the deltas of one answer joined."""
    gathered: dict[tuple[int, int], list[Delta]] = {}
    jobs: dict[int, Job] = {}
    failures: list[tuple[Job, Delta | Failure]] = []
    for job, event in outbox:
        if isinstance(event, Failure):
            failures.append((job, event))
        else:
            jobs[id(job)] = job
            gathered.setdefault((id(job), event.index), []).append(event)
    return [(jobs[job], _joined(deltas)) for (job, _), deltas in gathered.items()] + failures


def _joined(deltas: Sequence[Delta]) -> Delta:
    if len(deltas) == 1:
        return deltas[0]
    return Delta(
        deltas[0].index,
        "".join(delta.text for delta in deltas),
        deltas[-1].finish_reason,
        tuple(part for delta in deltas for part in delta.parts),
        deltas[0].prompt_scores,
    )
