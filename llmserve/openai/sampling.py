"""How the next token is chosen. Names are OpenAI's where it has one, else llama.cpp's; so are the meanings.

None (or an empty tuple) means that the request did not state it, and that the model's own default holds.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, AliasChoices, BeforeValidator, FailFast, Field, StrictBool, StrictInt, StrictStr

from llmserve.openai.prompts import TOKEN_ID_LIMIT
from llmserve.openai.schema import Number, Schema, refuse, vanishes

MAX_BIASES = 1024
MAX_BREAKERS = 32
MAX_BREAKER_CHARACTERS = 40
MAX_WINDOW = 2**31 - 1

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


def _biases(biases: object) -> dict[int, float]:
    """Token id to bias. The ids' upper bound is the vocabulary, which only the model's worker knows."""
    if not isinstance(biases, dict):
        refuse("must be an object of token ids and numbers")
    if len(biases) > MAX_BIASES:
        refuse(f"must have at most {MAX_BIASES} entries")
    result: dict[int, float] = {}
    for token, bias in biases.items():
        if not _TOKEN_ID.fullmatch(str(token)) or int(token) >= TOKEN_ID_LIMIT:
            refuse(f"must have token ids as keys, decimal and below {TOKEN_ID_LIMIT}")
        if type(bias) not in {int, float} or not -100 <= bias <= 100 or vanishes(bias):
            refuse("must have numbers from -100 to 100 as values")
        result[int(token)] = float(bias)
    return result


def _mirostat(version: int) -> int:
    if version not in (0, 2):
        refuse("must be 0 (off) or 2")
    return version


_Window = Annotated[StrictInt, Field(ge=-1, le=MAX_WINDOW)]
_Breaker = Annotated[StrictStr, Field(min_length=1, max_length=MAX_BREAKER_CHARACTERS)]


class Sampling(Schema):
    """The sampling parameters of a request."""

    extensions: ClassVar[frozenset[str]] = frozenset(
        {
            *("top_k", "min_p", "typical_p", "xtc_probability", "xtc_threshold"),
            *("repetition_penalty", "repeat_last_n"),
            *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
            *("mirostat", "mirostat_tau", "mirostat_eta", "ignore_eos"),
        }
    )

    seed: Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)] | None = Field(
        default=None, description="Start of the random numbers, a 64-bit integer."
    )
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = Field(
        default=None, description="0 to 2; 0 always takes the likeliest token."
    )
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        default=None, description="Above 0, to 1: the likeliest tokens with this much probability are in the draw."
    )
    top_k: Annotated[StrictInt, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="0 to 1000000: so many of the likeliest tokens are in the draw; 0 is all."
    )
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None, description="0 to 1: tokens less likely than this share of the likeliest one are out."
    )
    typical_p: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Above 0, to 1: the tokens of the most typical surprise with this much probability are in the "
        "draw; 1 is off.",
    )
    xtc_probability: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="0 to 1: how often, of all tokens above `xtc_threshold`, only the least likely stays in the draw; "
        "0 is off.",
    )
    xtc_threshold: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None, description="0 to 1: the probability above which `xtc_probability` takes tokens away."
    )
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = Field(
        default=None, description="-2 to 2, taken from the logit of every token that occurred."
    )
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = Field(
        default=None, description="-2 to 2, taken from a token's logit once for each time it occurred."
    )
    repetition_penalty: Annotated[Number, Field(gt=0, le=10)] | None = Field(
        default=None,
        validation_alias=AliasChoices("repetition_penalty", "repeat_penalty"),
        description="Above 0, to 10: weakens tokens that occurred; 1 is off. Both names mean the same and must agree.",
    )
    repeat_last_n: _Window | None = Field(
        default=None,
        description="How many of the last tokens the three penalties look at: -1 is all, 0 turns them off.",
    )
    dry_multiplier: Annotated[Number, Field(ge=0, le=100)] | None = Field(
        default=None,
        description="0 to 100: strength of the penalty on tokens that would prolong a repeated sequence (DRY); "
        "0 is off.",
    )
    dry_base: Annotated[Number, Field(ge=1, le=10)] | None = Field(
        default=None, description="1 to 10: by what the DRY penalty grows with each token of the repetition."
    )
    dry_allowed_length: Annotated[StrictInt, Field(ge=0, le=MAX_WINDOW)] | None = Field(
        default=None, description="Repetitions up to so many tokens are free of the DRY penalty."
    )
    dry_penalty_last_n: _Window | None = Field(
        default=None, description="How many of the last tokens DRY looks at: -1 is all, 0 turns it off."
    )
    dry_sequence_breakers: Annotated[tuple[_Breaker, ...], FailFast(), Field(min_length=1, max_length=MAX_BREAKERS)] = (
        Field(
            default=(),
            description=f"1 to {MAX_BREAKERS} strings of 1 to {MAX_BREAKER_CHARACTERS} characters over which DRY sees "
            "no repetition.",
        )
    )
    mirostat: Annotated[StrictInt, AfterValidator(_mirostat)] | None = Field(
        default=None,
        description="0 is off; 2 is Mirostat 2.0, which steers the surprise of the text and takes the place of the "
        "`top_k`, `top_p`, `min_p`, `typical_p` and `xtc_` filters.",
    )
    mirostat_tau: Annotated[Number, Field(ge=0, le=100)] | None = Field(
        default=None, description="0 to 100: the surprise Mirostat aims at, in bits per token."
    )
    mirostat_eta: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None, description="0 to 1: how fast Mirostat learns from its error."
    )
    logit_bias: Annotated[dict[int, float], BeforeValidator(_biases)] | None = Field(
        default=None,
        description=f"Token id to a number from -100 to 100 that is added to its logit; at most {MAX_BIASES} entries.",
    )
    ignore_eos: StrictBool = Field(default=False, description="Go on past the model's end of text; for benchmarks.")
