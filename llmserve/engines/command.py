"""How a worker is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """A worker's command line and its whole environment: nothing else is inherited."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
