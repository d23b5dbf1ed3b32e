"""Durations as Ollama's clients state them: seconds, or Go's notation."""

from __future__ import annotations

import math
import re

from llmserve.openai.schema import refuse

# "1h30m", "-1m", "1.5s"; a number without a unit means seconds.
_DURATION = re.compile(r"(?P<sign>[+-]?)(?P<parts>(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ns|us|µs|ms|s|m|h))+)", re.ASCII)
_PART = re.compile(r"(?P<number>[0-9.]+)(?P<unit>ns|us|µs|ms|s|m|h)", re.ASCII)
_NUMBER = re.compile(r"[+-]?[0-9]{1,12}(?:\.[0-9]{1,9})?", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_SECONDS = 31_536_000.0

FOR_EVER = -1.0


def keep_alive_seconds(value: object) -> float:
    """The seconds in `value`, at most a year; -1 for every negative duration, which means for ever."""
    seconds = _seconds(value)
    if seconds is None or not math.isfinite(seconds):
        refuse("must be a number of seconds, or a duration such as `5m`")
    return FOR_EVER if seconds < 0 else min(seconds, _LONGEST_SECONDS)


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    if _NUMBER.fullmatch(value):
        return float(value)
    match = _DURATION.fullmatch(value)
    if match is None:
        return None
    seconds = sum(float(part["number"]) * _SECONDS[part["unit"]] for part in _PART.finditer(match["parts"]))
    return -seconds if match["sign"] == "-" else seconds
