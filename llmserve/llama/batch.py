"""One step as the scheduler wants it: what to do to the KV cache, then which tokens to compute."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from llmserve.llama.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove everything `slot` holds."""

    slot: int


@dataclass(frozen=True, slots=True)
class Trim:
    """Remove everything behind the first `length` tokens of `slot`."""

    slot: int
    length: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Let the empty `target` have the first `length` tokens of `source` too."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Save:
    """Copy all that `slot` holds to host memory, under `key`."""

    slot: int
    key: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Fill the empty `slot` with the first `length` tokens of what was saved under `key`, which stays saved."""

    key: int
    slot: int
    length: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Free what was saved under `key`."""

    key: int


@dataclass(frozen=True, eq=False, slots=True)
class Keep:
    """Have `state`, which an earlier run saved, under `key` as if it had been saved in this one."""

    key: int
    state: npt.NDArray[np.uint8]


Operation = Drop | Trim | Copy | Save | Restore | Forget | Keep


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute `count` tokens of `sequence` from `start` on, of which the last are `draft` and not yet its own.

    `sample`: the next token is chosen from the logits behind the last token before the draft, and the draft is checked
    against them and those behind its own tokens. `scored`: the logits behind all tokens are wanted.
    """

    sequence: Sequence
    slot: int
    start: int
    count: int
    sample: bool
    scored: bool = False
    draft: tuple[int, ...] = ()

    @property
    def tokens(self) -> list[int]:
        own = self.sequence.tokens[self.start : self.start + self.count - len(self.draft)]
        return [*own, *self.draft] if self.draft else own

    def cut(self, count: int) -> tuple[Chunk, Chunk]:
        """Its first `count` tokens, and the others; for one without a draft."""
        rest = replace(self, start=self.start + count, count=self.count - count)
        return replace(self, count=count, sample=False), rest

    @property
    def rows(self) -> int:
        """Of how many of its last tokens the logits are wanted."""
        if self.scored:
            return self.count
        return 1 + len(self.draft) if self.sample else 0


@dataclass(slots=True)
class Batch:
    """Cache operations in order, then chunks in order of their slots, all of sequences with the same `adapter`.

    `decoding` of the chunks are one token, and its draft, of a sequence that is writing; `prefill` is the number of
    prompt tokens.
    """

    operations: list[Operation] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    decoding: int = 0
    prefill: int = 0
    adapter: int = 0
