"""What a request may ask of the choice of tokens, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Where a repeated passage may begin anew without being held against the text: the usual ones of DRY's author.
DEFAULT_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True, slots=True)
class DryParameters:
    """DRY, which weakens the token that would lengthen a repeated passage; see `dry.Dry`.

    `allowed_length`: passages up to so many tokens cost nothing. `last_n`: how many of the last tokens are searched for
    repetitions, -1 for all. `breakers`: texts at which a passage ends.
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    last_n: int = -1
    breakers: tuple[str, ...] = DEFAULT_BREAKERS


@dataclass(frozen=True, slots=True)
class XtcParameters:
    """XTC: with `probability`, all tokens of at least `threshold` but the least likely of them leave the draw."""

    probability: float
    threshold: float = 0.1


@dataclass(frozen=True, slots=True)
class MirostatParameters:
    """Mirostat 2.0: `tau` is the surprise to aim at, in bits per token, `eta` how fast it is approached."""

    tau: float = 5.0
    eta: float = 0.1


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """One sequence's sampling, as asked.

    `top_k` 0 switches that off, as do `top_p`, `typical_p` and `repetition_penalty` 1 and `min_p` 0. `repeat_last_n`
    is how many of the last tokens the three penalties look at, -1 for all of them and 0 for none. `banned` are token
    ids that must not be chosen (the end-of-generation tokens under `ignore_eos`). None: not used.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repeat_last_n: int = -1
    dry: DryParameters | None = None
    xtc: XtcParameters | None = None
    mirostat: MirostatParameters | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned: tuple[int, ...] = ()
    seed: int | None = None

    @property
    def penalises(self) -> bool:
        """Whether one of the three penalties changes anything."""
        asked = self.frequency_penalty != 0 or self.presence_penalty != 0 or self.repetition_penalty != 1
        return asked and self.repeat_last_n != 0

    @property
    def filters(self) -> bool:
        """Whether anything but the temperature shapes the draw."""
        narrows = self.top_k > 0 or self.top_p < 1 or self.min_p > 0 or self.typical_p < 1
        return narrows or self.xtc is not None
