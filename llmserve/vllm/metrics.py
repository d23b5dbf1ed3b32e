"""What a vLLM server counts, from the text of its `/metrics`."""

from __future__ import annotations

import re

_COUNTER = re.compile(
    r"^vllm:(iteration_tokens_total_count|prompt_tokens_total|generation_tokens_total)(?:\{[^}]*\})? ([0-9.e+]+)$",
    re.MULTILINE,
)
_STEPS = "iteration_tokens_total_count"
# vLLM's name of a counter -> the one that the llama worker has.
_TOKENS = {"prompt_tokens_total": "prompt_tokens", "generation_tokens_total": "generated_tokens"}


def steps_taken(metrics: str) -> float | None:
    """The steps of all engines; None where it does not say."""
    found = [float(value) for name, value in _COUNTER.findall(metrics) if name == _STEPS]
    return sum(found) if found else None


def counted_tokens(metrics: str) -> dict[str, float]:
    """`prompt_tokens` and `generated_tokens` of all engines together."""
    counts = dict.fromkeys(_TOKENS.values(), 0.0)
    for name, value in _COUNTER.findall(metrics):
        if name in _TOKENS:
            counts[_TOKENS[name]] += float(value)
    return counts
