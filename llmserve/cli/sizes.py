"""Numbers of bytes as people type them."""

from __future__ import annotations

import re
from typing import Any

import click

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?)\s*([kmgt]?)(i?)b?(?:/s)?", re.IGNORECASE | re.ASCII)


class ByteRate(click.ParamType[float]):
    """`500k`, `5MB`, `2 MiB/s`: bytes per second, decimal unless it says `i`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None or float(match[1]) <= 0:
            self.fail(f"`{value}` is no number of bytes per second, as in 5MB", param, ctx)
        base = 1024 if match[3] else 1000
        scale: int = base ** " kmgt".index(match[2].lower() or " ")
        return float(match[1]) * scale


BYTE_RATE = ByteRate()
