"""How often models were loaded, and unloaded for which reason, since the server started."""

from __future__ import annotations

from collections import Counter
from typing import Literal

UnloadCause = Literal["idle", "room", "pressure", "asked", "shutdown"]


class Turnover:
    """Counts by model, and of unloads by cause too: `room` is a swap for another model."""

    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()
        self.unloads: Counter[tuple[str, UnloadCause]] = Counter()
