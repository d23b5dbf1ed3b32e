"""How far the sequences of a step are drafted ahead: a pure decision over their texts and what steps have cost."""

from __future__ import annotations

from collections.abc import Sequence

from llmserve.llama.sequence import Sequence as TokenSequence
from llmserve.llama.speculation import StepCost, may_pay


class Drafting:
    """Drafts for decoding steps without prompts.

    `equal_lengths`: llama.cpp computes separate streams in one pass only where each has as many tokens, so all drafts
    of a step are as long as its shortest.
    """

    def __init__(self, *, equal_lengths: bool) -> None:
        self._equal_lengths = equal_lengths
        self._cost = StepCost()

    def drafts(self, decoding: Sequence[TokenSequence], room: int) -> list[tuple[int, ...]]:
        """A draft for each of `decoding`, which may be empty; together they have at most `room` tokens."""
        if not decoding:
            return []
        price = self._cost.price(len(decoding))
        if not may_pay(price):
            return [()] * len(decoding)
        drafts: list[tuple[int, ...]] = []
        for sequence in decoding:
            draft = self._draft(sequence, price, room)
            room -= len(draft)
            drafts.append(draft)
        if self._equal_lengths:
            shortest = min(map(len, drafts))
            drafts = [draft[:shortest] for draft in drafts]
        return drafts

    def observe(self, rows: int, seconds: float) -> None:
        """A step without prompts computed `rows` tokens, drafts included, in `seconds`."""
        self._cost.observe(rows, seconds)

    @staticmethod
    def _draft(sequence: TokenSequence, price: float, room: int) -> tuple[int, ...]:
        if sequence.speculation is None:
            return ()
        # A step writes one token more than its draft has.
        most = min(room, sequence.max_length - len(sequence.tokens) - 1)
        return tuple(sequence.speculation.draft(sequence.tokens, price, most))
