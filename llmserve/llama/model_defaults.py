"""How tokens are chosen where the request does not say: the layers of defaults, and what they add up to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from llmserve.llama.sampling_parameters import (
    DEFAULT_BREAKERS,
    DryParameters,
    MirostatParameters,
    SamplingParameters,
    XtcParameters,
)


@dataclass(frozen=True, slots=True)
class SamplingChoices:
    """What one layer states; None where it states nothing. Names and meanings are a request's."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None

    @classmethod
    def of(cls, stated: object) -> SamplingChoices:
        """What an object with attributes of these names states, such as a request; one it lacks is not stated."""
        values = {field.name: getattr(stated, field.name, None) for field in fields(cls)}
        # A request without breakers has an empty tuple, since its fields have no other way to say nothing.
        return cls(**values | {"dry_sequence_breakers": values["dry_sequence_breakers"] or None})

    def or_else(self, less_important: SamplingChoices) -> SamplingChoices:
        """These choices, and the other's where these state nothing."""
        return SamplingChoices(**(_stated(less_important) | _stated(self)))

    def parameters(
        self,
        logit_bias: Mapping[int, float] | None = None,
        banned: tuple[int, ...] = (),
        seed: int | None = None,
    ) -> SamplingParameters:
        """The parameters these choices amount to, with OpenAI's defaults where nothing is stated."""
        stated = _stated(self)
        plain = {field.name for field in fields(SamplingParameters)}
        return SamplingParameters(
            **{name: value for name, value in stated.items() if name in plain and name != "mirostat"},
            dry=self._dry(),
            xtc=self._xtc(),
            mirostat=self._mirostat(),
            logit_bias=logit_bias or {},
            banned=banned,
            seed=seed,
        )

    def _dry(self) -> DryParameters | None:
        if not self.dry_multiplier or self.dry_penalty_last_n == 0:
            return None
        asked = {
            "base": self.dry_base,
            "allowed_length": self.dry_allowed_length,
            "last_n": self.dry_penalty_last_n,
        }
        return DryParameters(
            self.dry_multiplier,
            breakers=self.dry_sequence_breakers or DEFAULT_BREAKERS,
            **_without_none(asked),
        )

    def _xtc(self) -> XtcParameters | None:
        # Two tokens cannot both have more than half of the probability.
        if not self.xtc_probability or (self.xtc_threshold or 0) > 0.5:
            return None
        return XtcParameters(self.xtc_probability, **_without_none({"threshold": self.xtc_threshold}))

    def _mirostat(self) -> MirostatParameters | None:
        if not self.mirostat:
            return None
        return MirostatParameters(**_without_none({"tau": self.mirostat_tau, "eta": self.mirostat_eta}))


@dataclass(frozen=True, slots=True)
class _Key:
    """A metadata key of a GGUF file: the choice it states and the values it may have."""

    choice: str
    least: float
    most: float
    whole: bool = False


# Keys as in the `gguf` package (`Keys.General`). `general.sampling.sequence` is not among them: the order of the
# stages is fixed here.
_KEYS = {
    "general.sampling.temp": _Key("temperature", 0, 2),
    "general.sampling.top_k": _Key("top_k", 0, 1_000_000, whole=True),
    "general.sampling.top_p": _Key("top_p", 1e-6, 1),
    "general.sampling.min_p": _Key("min_p", 0, 1),
    "general.sampling.xtc_probability": _Key("xtc_probability", 0, 1),
    "general.sampling.xtc_threshold": _Key("xtc_threshold", 0, 1),
    "general.sampling.penalty_last_n": _Key("repeat_last_n", -1, 2**31 - 1, whole=True),
    "general.sampling.penalty_repeat": _Key("repetition_penalty", 1e-6, 10),
    "general.sampling.mirostat": _Key("mirostat", 0, 2, whole=True),
    "general.sampling.mirostat_tau": _Key("mirostat_tau", 0, 100),
    "general.sampling.mirostat_eta": _Key("mirostat_eta", 0, 1),
}
METADATA_KEYS = tuple(_KEYS)


def choices_of_metadata(metadata: Mapping[str, object]) -> SamplingChoices:
    """What a GGUF file's own metadata states. Values are numbers, or their text as llama.cpp's reader gives it.

    A value that is no number, or outside what a request may ask for, is as if it were not there: odd metadata must not
    keep a model from being used. So is Mirostat in its first version.
    """
    read = {key.choice: _number(metadata.get(name), key) for name, key in _KEYS.items()}
    if read["mirostat"] == 1:
        read["mirostat"] = None
    return SamplingChoices(**_without_none(read))


def _number(value: object, key: _Key) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not (math.isfinite(number) and key.least <= number <= key.most):
        return None
    if not key.whole:
        return number
    return int(number) if number.is_integer() else None


def _stated(choices: SamplingChoices) -> dict[str, Any]:
    return _without_none({field.name: getattr(choices, field.name) for field in fields(choices)})


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
