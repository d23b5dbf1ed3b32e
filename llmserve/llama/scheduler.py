"""Who is computed in the next step: a pure decision over sequences, slots, cells and a token budget.

Four verbs: `next_batch()` says what to do to the cache and which tokens to run, the engine runs it, `commit(batch)`
records that it happened, `settle` how much of a draft was right. Rules, in order:

1. Every running sequence that is writing gets its one token. If the cells do not suffice, cached sequences are dropped
   (least recently used first), then the youngest running sequence is preempted: it keeps its tokens, waits at the
   front, and goes on when there is room. Nobody fails because somebody else wrote much.
2. Prompts get what is left of the step's budget, shortest remainder first; in some steps the oldest goes before it. One
   that gets nothing may take a token where that saves those who write a pass over the weights.
   A step without prompts checks drafts of what comes next, where that pays and cells are free anyway.
3. Waiting sequences are admitted while there is a place and their tokens fit: preempted ones first, then streamed,
   then the rest, each in order of arrival. A sequence that shares a long prefix with a prompt still being computed
   waits for those cells instead of computing them twice.
4. All sequences of a step have the same adapter. Where they have several, these take turns (`turns.py`), and "every"
   and "prompts" above are those whose turn it is; slots, cells and the queue are everybody's.
"""

from __future__ import annotations

from collections import Counter

from llmserve.llama.batch import Batch, Chunk
from llmserve.llama.drafting import Drafting
from llmserve.llama.kv_cache import WORTHWHILE_PREFIX, KvCache
from llmserve.llama.prefix_tree import common_prefix
from llmserve.llama.sequence import Phase, Sequence
from llmserve.llama.step_budget import StepBudget
from llmserve.llama.stream_calls import gaps
from llmserve.llama.turns import Turns

# Free cells a preempted sequence needs beyond its own tokens, per running one, so that it does not leave again at once.
READMISSION_RESERVE = 8
# Of several prompts being computed, the oldest goes first in one of so many steps.
OLDEST_FIRST_EVERY = 3
# Prompts that take a token each to join two that write cost less than another pass over the weights up to so many.
LONGEST_BRIDGE = 8
# Prompts of up to so many tokens are not cut where others move on too: each piece is a pass over the weights.
UNCUT_TOKENS = 128


class Scheduler:
    """Owns every sequence's place. Not thread-safe: the engine thread alone calls it."""

    def __init__(self, cache: KvCache, budget: StepBudget) -> None:
        self.cache = cache
        self._budget = budget
        self._drafting = Drafting(equal_lengths=cache.separate_streams)
        self._running: list[Sequence] = []
        self._waiting: list[Sequence] = []
        self._turns = Turns()
        # All that any sequence has had: where it is one, nobody has to take turns.
        self._adapters: set[int] = set()
        self._prefill_steps: Counter[int] = Counter()
        self.preemptions = 0

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not self._running and not self._waiting

    @property
    def crowded(self) -> bool:
        """Whether sequences wait because as many run as may."""
        return bool(self._waiting) and len(self._running) >= self.cache.limits.parallel

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence. Raises ValueError if it can never fit, which the caller must have ruled out."""
        if not 0 < len(sequence.tokens) < sequence.max_length <= self.cache.longest:
            raise ValueError("a sequence needs a prompt shorter than its bound, and a bound within the cache")
        self._waiting.append(sequence)
        self._adapters.add(sequence.adapter)

    def finish(self, sequence: Sequence) -> None:
        """The sequence is complete or cancelled. What it computed stays as cache until its cells are needed."""
        if sequence.phase is Phase.RUNNING:
            self._running.remove(sequence)
            slot, sequence.slot = _slot(sequence), None
            self.cache.retire(slot)
        elif sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
        sequence.phase = Phase.DONE

    def next_batch(self) -> Batch | None:
        """What to run now; None when there is nothing to do. Ends with `commit`, or `relieve`."""
        decoding = self._secure_decoding()
        self._admit()
        if decoding and len(self._adapters) > 1:
            decoding = self._secure_decoding()  # from those who came and whose turn it is not
        self._follow_move()
        turn = self._turn()
        prompts: list[Chunk] = []
        if len(decoding) < len(turn):
            prompts = self._prefill_chunks(turn, decoding)
            if not prompts and not decoding:
                return self.next_batch()  # others hold all cells, and are older: it is their turn
            prompts += self._bridges(turn, decoding, prompts)
        drafts = [()] * len(decoding) if prompts else self._drafts(decoding)
        chunks = [
            Chunk(sequence, _slot(sequence), sequence.computed, 1 + len(draft), True, draft=draft)
            for sequence, draft in zip(decoding, drafts, strict=True)
        ]
        chunks += prompts
        # A cancelled sequence can leave cache operations behind when there is nothing to compute.
        operations = self.cache.take_operations()
        if not chunks and not operations:
            return None
        prefill = sum(chunk.count for chunk in prompts)
        chunks.sort(key=lambda chunk: chunk.slot)
        return Batch(operations, chunks, len(decoding), prefill, chunks[0].sequence.adapter if chunks else 0)

    def commit(self, batch: Batch, seconds: float) -> None:
        """The batch was computed, in `seconds`."""
        for chunk in batch.chunks:
            chunk.sequence.computed += chunk.count
            self.cache.extend(chunk.slot, chunk.tokens)
        if len(self._adapters) > 1:
            self._turns.took(seconds)
        if batch.chunks:
            self._budget.observe(batch.decoding, batch.prefill, seconds)
        if batch.chunks and not batch.prefill:
            self._drafting.observe(sum(chunk.count for chunk in batch.chunks), seconds)

    def settle(self, chunk: Chunk, accepted: int) -> None:
        """The first `accepted` tokens of the computed chunk's draft are the sequence's own, the others are wrong.

        To be called before the sequence is finished, or the next batch is asked for.
        """
        wrong = len(chunk.draft) - accepted
        if wrong:
            chunk.sequence.computed -= wrong
            self.cache.trim(chunk.slot, chunk.sequence.computed)

    def relieve(self) -> bool:
        """The cache had no room for the last batch after all: give something up. False when nothing is left."""
        if self.cache.evict_idle():
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
        self.cache = type(self.cache)(self.cache.limits)
        self._running, self._waiting = [], []
        return lost

    def _drafts(self, decoding: list[Sequence]) -> list[tuple[int, ...]]:
        """What to check beside each sequence's next token: only where wrong tokens can be cut from its memory."""
        limits = self.cache.limits
        room = min(limits.spare_rows, min(self.cache.cells_free, self._budget.batch) - len(decoding))
        return self._drafting.drafts(decoding, room if limits.cuttable else 0)

    def _turn(self) -> list[Sequence]:
        """The running sequences that the next step may compute."""
        if len(self._adapters) < 2 or not self._running:
            return self._running
        adapter = self._turns.choose({sequence.adapter for sequence in self._running})
        return [sequence for sequence in self._running if sequence.adapter == adapter]

    # --- cells ---

    def _secure_decoding(self) -> list[Sequence]:
        """The sequences that write in this step, with a free cell for each of them."""
        while True:
            decoding = [sequence for sequence in self._turn() if sequence.pending == 1]
            if self.cache.make_room(len(decoding)):
                return decoding
            self._preempt(max(self._running, key=lambda sequence: sequence.age))

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        slot, sequence.slot = _slot(sequence), None
        self.cache.preempt(slot)
        sequence.phase, sequence.computed = Phase.WAITING, 0
        sequence.preemptions += 1
        self.preemptions += 1
        self._waiting.append(sequence)

    def _follow_move(self) -> None:
        move = self.cache.compact()
        if move is not None:
            source, target = move
            next(sequence for sequence in self._running if sequence.slot == source).slot = target

    # --- admission ---

    def _admit(self) -> None:
        if not self._waiting or len(self._running) >= self.cache.limits.parallel:
            return
        for sequence in sorted(self._waiting, key=_priority):
            if len(self._running) >= self.cache.limits.parallel:
                return
            if self._shares_with_unfinished(sequence):
                continue
            if self._running and not self._has_room(sequence):
                return  # in order: a smaller one behind it must not starve it
            self._start(sequence)

    def _has_room(self, sequence: Sequence) -> bool:
        reusable = _reusable(sequence)
        anew = len(sequence.tokens) - len(reusable)
        return self.cache.has_room(reusable, self._promised_to_others(sequence) + anew, sequence.adapter)

    def _shares_with_unfinished(self, sequence: Sequence) -> bool:
        """Whether another prompt, still being computed, will soon hold a worthwhile part of this one's prefix."""
        if not self.cache.limits.cuttable or sequence.scores_prompt:
            return False
        in_prefill = [other for other in self._running if other.pending > 1 and other.adapter == sequence.adapter]
        if not in_prefill:
            return False
        limit = len(sequence.tokens) - 1
        soon = max(common_prefix(sequence.tokens, other.tokens, limit=limit) for other in in_prefill)
        if soon < WORTHWHILE_PREFIX:
            return False
        return soon >= self.cache.resident(sequence.tokens, sequence.adapter) + WORTHWHILE_PREFIX

    def _promised_to_others(self, sequence: Sequence) -> int:
        """Cells that running sequences will take soon, and a reserve if `sequence` had to leave before."""
        unfinished = sum(other.pending for other in self._running)
        return unfinished + (READMISSION_RESERVE * len(self._running) if sequence.preemptions else 0)

    def _start(self, sequence: Sequence) -> None:
        slot, cached = self.cache.admit(_reusable(sequence), sequence.adapter)
        self._waiting.remove(sequence)
        self._running.append(sequence)
        sequence.phase, sequence.slot, sequence.computed = Phase.RUNNING, slot, cached
        if sequence.cached is None:
            sequence.cached = cached

    # --- prefill ---

    def _prefill_budget(self, decoding: int, prompts: list[Sequence]) -> int:
        shortest = min((sequence.pending for sequence in prompts if sequence.pending > 1), default=0)
        writing = decoding
        if len(self._adapters) > 1:
            # Who writes with another adapter waits for this step as well.
            writing = min(sum(sequence.pending == 1 for sequence in self._running), self._budget.batch - 1)
        budget = max(self._budget.prefill_tokens(writing, len(prompts)), self._budget.uncut(shortest))
        return min(budget, self._budget.batch - decoding)

    def _prefill_chunks(self, turn: list[Sequence], decoding: list[Sequence]) -> list[Chunk]:
        """A part of the prompts among `turn`, within the step's budget; a cell is promised to each of `decoding`."""
        writing = set(map(id, decoding))
        prompts = [sequence for sequence in turn if id(sequence) not in writing]
        if not prompts:
            return []
        prompts = self._in_order(prompts)
        budget = self._prefill_budget(len(decoding), prompts)
        promised = len(decoding)
        rows = self.cache.limits.spare_rows
        chunks: list[Chunk] = []
        for sequence in prompts:
            # Beside the spare rows there is one for each running sequence.
            count = min(sequence.pending, budget, rows + 1 if sequence.scores_prompt else budget)
            if chunks and count < sequence.pending <= UNCUT_TOKENS and not sequence.scores_prompt:
                # Whole if the budget has room for most of it, else in a later step.
                fits = sequence.pending <= min(2 * count, self._budget.batch - promised)
                count = sequence.pending if fits else 0
            if not self.cache.make_room(promised + count):
                count = min(count, self.cache.cells_free - promised)
            if count <= 0:
                break
            chunks.append(
                Chunk(
                    sequence,
                    _slot(sequence),
                    sequence.computed,
                    count,
                    sample=count == sequence.pending,
                    scored=sequence.scores_prompt,
                )
            )
            rows -= count - 1 if sequence.scores_prompt else 0
            budget -= count
            promised += count
        if not chunks and not decoding:
            # Others fill the cache, or prompts do, each with a part of itself: the youngest starts over later.
            youngest = max(self._running, key=lambda sequence: sequence.age)
            self._preempt(youngest)
            return self._prefill_chunks([sequence for sequence in turn if sequence is not youngest], decoding)
        return chunks

    def _bridges(self, turn: list[Sequence], decoding: list[Sequence], chunks: list[Chunk]) -> list[Chunk]:
        """One token of each prompt that rests in this step and lies between two streams that write.

        So these are neighbours, and computed in one pass over the weights instead of two.
        """
        if not self.cache.separate_streams:
            return []
        prompts = {_slot(sequence): sequence for sequence in turn if sequence.pending > 1}
        moving = {chunk.slot for chunk in chunks}
        room = self._budget.batch - len(decoding) - sum(chunk.count for chunk in chunks)
        bridges: list[Chunk] = []
        for gap in gaps(map(_slot, decoding)):
            resting = [slot for slot in gap if slot not in moving]
            if len(gap) > LONGEST_BRIDGE or len(resting) > room or not prompts.keys() >= set(gap):
                continue
            room -= len(resting)
            for slot in resting:
                sequence = prompts[slot]
                bridges.append(Chunk(sequence, slot, sequence.computed, 1, False, scored=sequence.scores_prompt))
        return bridges

    def _in_order(self, prompts: list[Sequence]) -> list[Sequence]:
        """Shortest remainder first, which keeps the mean wait short; in every few steps the oldest goes before it, so
        that a long prompt is never kept from its end.
        """
        prompts.sort(key=lambda sequence: (sequence.pending, sequence.age))
        if len(prompts) > 1:
            adapter = prompts[0].adapter
            self._prefill_steps[adapter] += 1
            if self._prefill_steps[adapter] % OLDEST_FIRST_EVERY == 0:
                oldest = min(prompts, key=lambda sequence: sequence.age)
                prompts.remove(oldest)
                prompts.insert(0, oldest)
        return prompts


def _slot(sequence: Sequence) -> int:
    if sequence.slot is None:
        raise ValueError("the sequence is not running")
    return sequence.slot


def _reusable(sequence: Sequence) -> list[int]:
    """The tokens of which all but the last may come from the cache."""
    return sequence.tokens[:1] if sequence.scores_prompt else sequence.tokens


def _priority(sequence: Sequence) -> tuple[bool, bool, int]:
    return (sequence.preemptions == 0, not sequence.streamed, sequence.age)
