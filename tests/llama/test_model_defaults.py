from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gguf
import pytest

from llmserve.llama.model_defaults import METADATA_KEYS, SamplingChoices, choices_of_metadata
from llmserve.llama.sampling_parameters import (
    DEFAULT_BREAKERS,
    DryParameters,
    MirostatParameters,
    SamplingParameters,
    XtcParameters,
)
from llmserve.openai.sampling import Sampling


def test_keys_are_those_of_the_gguf_package() -> None:
    known = {value for name, value in vars(gguf.Keys.General).items() if name.startswith("SAMPLING_")}
    assert set(METADATA_KEYS) == known - {"general.sampling.sequence"}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"general.sampling.temp": 0.6, "general.sampling.top_k": 20}, {"temperature": 0.6, "top_k": 20}),
        ({"general.sampling.temp": "0.600000", "general.sampling.top_k": "20"}, {"temperature": 0.6, "top_k": 20}),
        ({"general.sampling.top_p": 0.95, "general.sampling.min_p": 0.0}, {"top_p": 0.95, "min_p": 0.0}),
        ({"general.sampling.penalty_repeat": 1.1}, {"repetition_penalty": 1.1}),
        ({"general.sampling.penalty_last_n": -1}, {"repeat_last_n": -1}),
        ({"general.sampling.mirostat": 2, "general.sampling.mirostat_tau": 4.0}, {"mirostat": 2, "mirostat_tau": 4.0}),
        ({"general.sampling.mirostat": 1}, {}),
        ({"general.sampling.temp": float("nan"), "general.sampling.top_p": 0.0}, {}),
        ({"general.sampling.temp": "warm", "general.sampling.top_k": 2.5, "general.sampling.min_p": True}, {}),
        ({"general.sampling.temp": [0.6], "general.sampling.top_k": 10**400}, {}),
        ({"general.sampling.sequence": "top_k;temperature", "general.name": "x"}, {}),
    ],
)
def test_metadata_states_what_makes_sense(metadata: dict[str, object], expected: dict[str, Any]) -> None:
    assert choices_of_metadata(metadata) == SamplingChoices(**expected)


def test_every_sampling_field_of_a_request_is_known_here() -> None:
    elsewhere = {"seed", "logit_bias", "ignore_eos"}
    assert set(SamplingChoices.__dataclass_fields__) == set(Sampling.model_fields) - elsewhere


def test_the_more_important_layer_wins_field_by_field() -> None:
    request = SamplingChoices.of(SimpleNamespace(temperature=0.0, top_k=None, dry_sequence_breakers=(), model="x"))
    catalog = SamplingChoices(temperature=0.2, top_k=5)
    file = SamplingChoices(temperature=0.7, top_k=40, top_p=0.8)
    parameters = request.or_else(catalog).or_else(file).parameters(seed=3)
    assert parameters == SamplingParameters(temperature=0.0, top_k=5, top_p=0.8, seed=3)


def test_nothing_stated_is_what_openai_does() -> None:
    assert SamplingChoices().parameters() == SamplingParameters()


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"dry_multiplier": 0.8}, {"dry": DryParameters(0.8, 1.75, 2, -1, DEFAULT_BREAKERS)}),
        (
            {
                "dry_multiplier": 1.0,
                "dry_base": 2.0,
                "dry_allowed_length": 0,
                "dry_penalty_last_n": 64,
                "dry_sequence_breakers": ("x",),
            },
            {"dry": DryParameters(1.0, 2.0, 0, 64, ("x",))},
        ),
        ({"dry_multiplier": 0.0, "dry_base": 2.0}, {}),
        ({"dry_multiplier": 1.0, "dry_penalty_last_n": 0}, {}),
        ({"xtc_probability": 0.5}, {"xtc": XtcParameters(0.5, 0.1)}),
        ({"xtc_probability": 0.5, "xtc_threshold": 0.0}, {"xtc": XtcParameters(0.5, 0.0)}),
        ({"xtc_probability": 0.5, "xtc_threshold": 0.51}, {}),
        ({"xtc_probability": 0.0}, {}),
        ({"mirostat": 2, "mirostat_eta": 0.3}, {"mirostat": MirostatParameters(5.0, 0.3)}),
        ({"mirostat": 0, "mirostat_tau": 3.0}, {}),
    ],
)
def test_groups_are_there_when_they_do_something(choices: dict[str, Any], expected: dict[str, Any]) -> None:
    assert SamplingChoices(**choices).parameters() == SamplingParameters(**expected)
