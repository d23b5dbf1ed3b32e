"""Which loaded models to unload so that another one fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A model that takes a minute to load is kept as if it had been used ten minutes later than one that loads at once.
_IDLE_SECONDS_PER_LOAD_SECOND = 10.0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory: the `bytes` it would give back, its open `leases`, when it was last used (any clock), how long
    its load took, and whether it is `pinned`, that is never unloaded for another."""

    name: str
    bytes: int
    leases: int
    last_used: float
    load_seconds: float = 0.0
    pinned: bool = False

    @property
    def value(self) -> float:
        """What orders models by how gladly one gives them up: the use of a model counts for the longer, the longer it
        takes to bring it back."""
        return self.last_used + _IDLE_SECONDS_PER_LOAD_SECOND * self.load_seconds


def choose_victims(needed_bytes: int, available_bytes: int, loaded: Sequence[LoadedModel]) -> tuple[str, ...] | None:
    """The names of the models to unload before `needed_bytes` fit, the least valuable first: that is
    the least recently used, among those that load equally fast.

    Never a model with a lease or a pinned one, and never one more than necessary: without any of the victims the rest
    would not do. Empty when enough is available already; None when not even all idle models together would make room.
    """
    missing = needed_bytes - available_bytes
    victims: list[LoadedModel] = []
    free = [model for model in loaded if model.leases == 0 and not model.pinned]
    idle = sorted(free, key=lambda model: (model.value, model.name))
    for model in idle:
        if missing <= 0:
            break
        victims.append(model)
        missing -= model.bytes
    if missing > 0:
        return None
    # A large model that came late can make earlier, small ones needless; the most valuable are spared first.
    for model in reversed(victims.copy()):
        if missing + model.bytes <= 0:
            victims.remove(model)
            missing += model.bytes
    return tuple(model.name for model in victims)
