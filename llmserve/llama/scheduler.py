"""Who is computed in the next step: a pure decision over sequences, slots, cells and a token budget.

Three verbs: `next_batch()` says what to do to the cache and which tokens to run, the engine runs it, `commit(batch)`
records that it happened. Rules, in order:

1. Every running sequence that is writing gets its one token. If the cells do not suffice, cached sequences are dropped
   (least recently used first), then the youngest running sequence is preempted: it keeps its tokens, waits at the
   front, and is computed again when there is room. Nobody fails because somebody else wrote much.
2. Prompts share what is left of the step's budget, oldest first, each at least a fair part.
3. Waiting sequences are admitted while there is a place and their tokens fit: preempted ones first, then streamed,
   then the rest, each in order of arrival. A sequence that shares a long prefix with a prompt still being computed
   waits for those cells instead of computing them twice.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from llmserve.llama.prefix_tree import PrefixTree, common_prefix
from llmserve.llama.sequence import Phase, Sequence
from llmserve.llama.step_budget import StepBudget

# Waiting for another prompt's cells pays only if it saves at least this many tokens.
WORTHWHILE_PREFIX = 16
# Free cells a preempted sequence needs beyond its own tokens, per running one, so that it does not leave again at once.
READMISSION_RESERVE = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What the cache and a step can hold.

    parallel: sequences that run at once. slots: sequence ids of the cache, more than `parallel`, since finished
    sequences keep theirs while they are cached. cells: tokens the cache holds. idle_cells: how many of them finished
    sequences may keep (the newest one is kept whatever its size); attention walks over every used cell, so idle ones
    are not free. worth_keeping: finished sequences of fewer tokens make way when a request is admitted that does not
    go on from them. shares_prefixes: False where a sequence's memory cannot be cut (recurrent, sliding window), so that
    nothing is ever reused there.
    """

    parallel: int
    slots: int
    cells: int
    idle_cells: int
    worth_keeping: int = 0
    shares_prefixes: bool = True

    def __post_init__(self) -> None:
        if self.slots <= self.parallel:
            raise ValueError("finished sequences need slots of their own")


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove everything `slot` holds."""

    slot: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Let `target` own the first `length` tokens of `source` too."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute `sequence.tokens[start : start + count]`; `sample`: the last one gives the next token's logits."""

    sequence: Sequence
    slot: int
    start: int
    count: int
    sample: bool


@dataclass(slots=True)
class Batch:
    """One step: cache operations in order, then chunks (decoding ones first)."""

    operations: list[Drop | Copy] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    decoding: int = 0
    prefill: int = 0


class Scheduler:
    """Owns every sequence's place. Not thread-safe: the engine thread alone calls it."""

    def __init__(self, limits: Limits, budget: StepBudget) -> None:
        self.limits = limits
        self._budget = budget
        self._tree = PrefixTree()
        self._free_slots = list(range(limits.slots))
        self._running: list[Sequence] = []
        self._waiting: list[Sequence] = []
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._operations: list[Drop | Copy] = []
        self.preemptions = 0

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def cells_used(self) -> int:
        return self._tree.cells

    @property
    def idle(self) -> bool:
        return not self._running and not self._waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence. Raises ValueError if it can never fit, which the caller must have ruled out."""
        if not 0 < len(sequence.tokens) < sequence.max_length <= self.limits.cells:
            raise ValueError("a sequence needs a prompt shorter than its bound, and a bound within the cache")
        self._waiting.append(sequence)

    def finish(self, sequence: Sequence) -> None:
        """The sequence is complete or cancelled. What it computed stays as cache until its cells are needed."""
        if sequence.phase is Phase.RUNNING:
            self._running.remove(sequence)
            self._retire(sequence)
        elif sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
        sequence.phase = Phase.DONE

    def next_batch(self) -> Batch | None:
        """What to run now; None when there is nothing to do. Ends with `commit`, or `relieve`."""
        decoding = self._secure_decoding()
        self._admit()
        chunks = [Chunk(s, _slot(s), s.computed, 1, True) for s in decoding]
        chunks += self._prefill_chunks(decoding, self._budget.prefill_tokens(len(decoding)))
        # A cancelled sequence can leave cache operations behind when there is nothing to compute.
        operations, self._operations = self._operations, []
        if not chunks and not operations:
            return None
        prefill = sum(chunk.count for chunk in chunks[len(decoding) :])
        return Batch(operations, chunks, len(decoding), prefill)

    def commit(self, batch: Batch, seconds: float) -> None:
        """The batch was computed, in `seconds`."""
        for chunk in batch.chunks:
            sequence = chunk.sequence
            sequence.computed += chunk.count
            self._tree.extend(chunk.slot, sequence.tokens[chunk.start : chunk.start + chunk.count])
        if batch.chunks:
            self._budget.observe(batch.decoding, batch.prefill, seconds)

    def relieve(self) -> bool:
        """The cache had no room for the last batch after all: give something up. False when nothing is left."""
        if self._cached:
            self._evict_oldest()
            return True
        if len(self._running) > 1:
            self._preempt(max(self._running, key=lambda sequence: sequence.age))
            return True
        return False

    def clear(self) -> list[Sequence]:
        """Forget everything, after the cache was lost; returns the sequences that were running or waiting."""
        lost = [*self._running, *self._waiting]
        for sequence in lost:
            sequence.phase = Phase.DONE
        self._tree = PrefixTree()
        self._free_slots = list(range(self.limits.slots))
        self._running, self._waiting, self._operations = [], [], []
        self._cached.clear()
        return lost

    # --- cells ---

    def _secure_decoding(self) -> list[Sequence]:
        """The sequences that write in this step, with a free cell for each of them."""
        while True:
            decoding = [sequence for sequence in self._running if sequence.pending == 1]
            if self._make_room(len(decoding)):
                return decoding
            self._preempt(max(self._running, key=lambda sequence: sequence.age))

    def _make_room(self, cells: int) -> bool:
        """Drop cached sequences until `cells` are free; False if dropping all of them would not do."""
        while self._tree.cells + cells > self.limits.cells:
            if not self._cached:
                return False
            self._evict_oldest()
        return True

    def _evict_oldest(self) -> None:
        slot, _ = self._cached.popitem(last=False)
        self._drop(slot)

    def _drop(self, slot: int) -> None:
        self._tree.release(slot)
        self._free_slots.append(slot)
        self._operations.append(Drop(slot))

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._drop(_slot(sequence))
        sequence.phase, sequence.slot, sequence.computed = Phase.WAITING, None, 0
        sequence.preemptions += 1
        self.preemptions += 1
        self._waiting.append(sequence)

    def _retire(self, sequence: Sequence) -> None:
        slot, sequence.slot = _slot(sequence), None
        if not self.limits.shares_prefixes or self._tree.length(slot) == 0:
            self._drop(slot)
            return
        self._cached[slot] = None
        while len(self._cached) > 1 and self._idle_cells() > self.limits.idle_cells:
            self._evict_oldest()

    def _idle_cells(self) -> int:
        return self._tree.cells - self._tree.cells_held_by(_slot(sequence) for sequence in self._running)

    # --- admission ---

    def _admit(self) -> None:
        if not self._waiting or len(self._running) >= self.limits.parallel:
            return
        for sequence in sorted(self._waiting, key=_priority):
            if len(self._running) >= self.limits.parallel:
                return
            if self._shares_with_unfinished(sequence):
                continue
            if not self._admit_one(sequence):
                return  # in order: a smaller one behind it must not starve it

    def _shares_with_unfinished(self, sequence: Sequence) -> bool:
        """Whether another prompt, still being computed, will soon hold a worthwhile part of this one's prefix."""
        if not self.limits.shares_prefixes:
            return False
        in_prefill = [other for other in self._running if other.pending > 1]
        if not in_prefill:
            return False
        limit = len(sequence.tokens) - 1
        soon = max(common_prefix(sequence.tokens, other.tokens, limit=limit) for other in in_prefill)
        if soon < WORTHWHILE_PREFIX:
            return False
        return soon >= self._tree.match(sequence.tokens, limit).length + WORTHWHILE_PREFIX

    def _admit_one(self, sequence: Sequence) -> bool:
        limit = len(sequence.tokens) - 1 if self.limits.shares_prefixes else 0
        match = self._tree.match(sequence.tokens, limit)
        if self._running:
            needed = len(sequence.tokens) - match.length
            if sequence.preemptions:
                needed += READMISSION_RESERVE * len(self._running)
            unfinished = sum(other.pending for other in self._running)
            # Idle cells can be had, except those of the match once this sequence holds them.
            reclaimable = max(0, self._idle_cells() - match.length)
            if needed + unfinished > self.limits.cells - self._tree.cells + reclaimable:
                return False
        if not self._free_slots:
            self._evict_oldest()
            match = self._tree.match(sequence.tokens, limit)
        slot = self._free_slots.pop()
        source = self._tree.fork(match, slot)
        if source is not None:
            self._operations.append(Copy(source, slot, match.length))
            self._supersede(source, match.length)
        self._waiting.remove(sequence)
        self._running.append(sequence)
        sequence.phase, sequence.slot, sequence.computed = Phase.RUNNING, slot, match.length
        if sequence.cached is None:
            sequence.cached = match.length
        for idle in [slot for slot in self._cached if self._tree.length(slot) < self.limits.worth_keeping]:
            del self._cached[idle]
            self._drop(idle)
        return True

    def _supersede(self, source: int, length: int) -> None:
        """Touch the cached sequence a prefix came from; drop it where the new sequence holds all it has."""
        if source not in self._cached:
            return
        if self._tree.length(source) == length:
            del self._cached[source]
            self._drop(source)
        else:
            self._cached.move_to_end(source)

    # --- prefill ---

    def _prefill_chunks(self, decoding: list[Sequence], budget: int) -> list[Chunk]:
        """Share `budget` between the prompts being computed; a cell is promised to each of `decoding`."""
        writing = set(map(id, decoding))
        prompts = sorted((s for s in self._running if id(s) not in writing), key=lambda sequence: sequence.age)
        promised = len(decoding)
        chunks: list[Chunk] = []
        for position, sequence in enumerate(prompts):
            # A fair part for each; what shorter prompts leave of theirs goes to the oldest.
            fair = -(-budget // (len(prompts) - position))
            others = sum(min(fair, other.pending) for other in prompts[position + 1 :])
            count = min(sequence.pending, max(fair, budget - others), budget)
            if not self._make_room(promised + count):
                count = min(count, self.limits.cells - self._tree.cells - promised)
            if count <= 0:
                break
            chunks.append(Chunk(sequence, _slot(sequence), sequence.computed, count, count == sequence.pending))
            budget -= count
            promised += count
        if prompts and not chunks and not decoding:
            # Prompts alone fill the cache, each with a part of itself: the youngest starts over later.
            self._preempt(prompts[-1])
            return self._prefill_chunks(decoding, budget)
        return chunks


def _slot(sequence: Sequence) -> int:
    if sequence.slot is None:
        raise ValueError("the sequence is not running")
    return sequence.slot


def _priority(sequence: Sequence) -> tuple[bool, bool, int]:
    return (sequence.preemptions == 0, not sequence.streamed, sequence.age)
