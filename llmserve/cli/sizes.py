"""Numbers of bytes as people type them."""

from __future__ import annotations

from typing import Any

import click

from llmserve.settings import parse_size


class ByteRate(click.ParamType[float]):
    """`500k`, `5MB`, `2 MiB/s`: bytes per second, decimal unless it says `i`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        rate = parse_size(str(value).strip().removesuffix("/s"))
        if not rate:
            self.fail(f"`{value}` is no number of bytes per second, as in 5MB", param, ctx)
        return rate


BYTE_RATE = ByteRate()
