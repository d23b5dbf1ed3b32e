"""Which loaded models to unload so that another one fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory: the `bytes` it would give back, its open `leases`, and when it was last used (any clock)."""

    name: str
    bytes: int
    leases: int
    last_used: float


def choose_victims(needed_bytes: int, available_bytes: int, loaded: Sequence[LoadedModel]) -> tuple[str, ...] | None:
    """The names of the models to unload before `needed_bytes` fit, least recently used first.

    Never a model with a lease, and never one more than necessary: without any of the victims the rest would not do.
    Empty when enough is available already; None when not even all idle models together would make room.
    """
    missing = needed_bytes - available_bytes
    victims: list[LoadedModel] = []
    idle = sorted((model for model in loaded if model.leases == 0), key=lambda model: (model.last_used, model.name))
    for model in idle:
        if missing <= 0:
            break
        victims.append(model)
        missing -= model.bytes
    if missing > 0:
        return None
    # A large model that came late can make earlier, small ones needless; the most recently used are spared first.
    for model in reversed(victims.copy()):
        if missing + model.bytes <= 0:
            victims.remove(model)
            missing += model.bytes
    return tuple(model.name for model in victims)
