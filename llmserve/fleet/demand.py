"""What one request asks of the fleet, besides the model."""

from __future__ import annotations

from dataclasses import dataclass

from llmserve.types import ModelKind


@dataclass(frozen=True, slots=True)
class Demand:
    """The terms of one request.

    kind: of the models that can answer it (None: any). client: whose turn it takes where requests wait. background: it
    waits behind all that are not. max_wait_seconds: for a lease, loading included (None: as long as it takes).
    keep_alive_seconds: how long the model stays loaded afterwards (negative: for ever; None: as it was). computes: the
    model computes for it; what only asks for tokens takes no place from those, and waits for none.
    """

    kind: ModelKind | None = None
    client: str = ""
    background: bool = False
    max_wait_seconds: float | None = None
    keep_alive_seconds: float | None = None
    computes: bool = True
