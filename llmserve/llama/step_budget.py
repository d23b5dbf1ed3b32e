"""How many prompt tokens one step may take while other sequences are writing."""

from __future__ import annotations

# A running stream's gap between tokens may double, or reach this for each prompt that waits, whichever is larger: who
# waits for a first token sees nothing at all, and whole prompts are cheaper to compute than slices of them.
TOLERATED_GAP_SECONDS = 0.1
# What the longest gap completes is not cut: small slices of a prompt cost up to twice as much for each token.
LONGEST_GAP_SECONDS = 0.5
# Nor are so many tokens: llama.cpp's flash attention on a CPU computes so many rows together and fewer than these one
# by one (GGML_FA_TILE_Q), which takes three times as long behind 3,000 tokens.
ATTENTION_TILE = 64
# A prompt always moves on by this much, however slow the machine.
SMALLEST_CHUNK = 16
# Weight of the newest measurement in the running means.
_SMOOTHING = 0.3


class StepBudget:
    """Follows measured step times; pure, the caller holds the clock."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._decode_seconds: float | None = None
        self._prefill_seconds_per_token: float | None = None

    def prefill_tokens(self, decoding: int, prompts: int) -> int:
        """Tokens of `prompts` prompts that the next step may take beside `decoding` sequences with one token each."""
        room = self.batch - decoding
        if decoding == 0 or self._decode_seconds is None or self._prefill_seconds_per_token is None:
            return room
        tolerated = min(TOLERATED_GAP_SECONDS * max(1, prompts), LONGEST_GAP_SECONDS)
        spare = max(self._decode_seconds, tolerated - self._decode_seconds)
        return max(min(SMALLEST_CHUNK, room), min(room, int(spare / self._prefill_seconds_per_token)))

    def uncut(self, tokens: int) -> int:
        """How many of the last `tokens` of a prompt are computed in one step at least, whoever else is running."""
        for enough in (tokens, min(tokens, ATTENTION_TILE)):
            if enough * (self._prefill_seconds_per_token or 0.0) <= LONGEST_GAP_SECONDS:
                return enough
        return 0

    def observe(self, decoding: int, prefill: int, seconds: float) -> None:
        """Learn from a step that decoded `decoding` tokens and prefilled `prefill` in `seconds`."""
        if prefill == 0:
            self._decode_seconds = _mean(self._decode_seconds, seconds)
        else:
            of_decoding = (self._decode_seconds or 0.0) if decoding else 0.0
            # A step cannot cost less than nothing, even where the decode part was overestimated.
            cost = max(seconds - of_decoding, seconds * 0.1) / prefill
            self._prefill_seconds_per_token = _mean(self._prefill_seconds_per_token, cost)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _SMOOTHING * (new - old)
