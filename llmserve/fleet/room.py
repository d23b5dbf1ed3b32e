"""Whether there is room for a plan, and whose memory would make it. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llmserve.errors import InsufficientStorage
from llmserve.fleet.record import Instance
from llmserve.planning.eviction import choose_victims
from llmserve.types import EnginePlan


@dataclass(frozen=True, slots=True)
class Room:
    """What to do before a plan is carried out.

    victims: unload these, then plan again. blocked: only models in use stand in the way, so wait for one of them.
    pinned: these stand in the way, and stay. None of it: start. Also a plan that does not fit is started once nothing
    is left to unload, since an estimate advises and does not forbid.
    """

    victims: frozenset[str] = frozenset()
    blocked: bool = False
    pinned: tuple[str, ...] = ()


def find_room(plan: EnginePlan, loaded: Collection[Instance], rivals: Collection[Instance] = ()) -> Room:
    """Decide for `plan`, whose memory figures were taken with `loaded` in place.

    `rivals` are those of `loaded` that may not be there at the same time, however much memory there is.
    """
    if pinned := tuple(instance.model.name for instance in rivals if instance.pinned):
        return Room(pinned=pinned)
    if any(instance.leases for instance in rivals):
        return Room(blocked=True)
    victims = {instance.model.name for instance in rivals}
    if plan.fits:
        return Room(frozenset(victims))
    for memory in plan.memory:
        if memory.available is None or memory.total <= memory.available:
            continue
        candidates = [instance.on_device(memory.device) for instance in loaded if instance.bytes_on(memory.device)]
        chosen = choose_victims(memory.total, memory.available, candidates)
        if chosen is None:
            if any(candidate.leases and not candidate.pinned for candidate in candidates):
                return Room(blocked=True)
            if pinned := tuple(candidate.name for candidate in candidates if candidate.pinned):
                return Room(pinned=pinned)
            chosen = tuple(candidate.name for candidate in candidates)
        victims.update(chosen)
    return Room(victims=frozenset(victims))


def no_room_beside(name: str, pinned: Collection[str]) -> InsufficientStorage:
    """The error for the model `name` where pinned models leave no room for it."""
    kept = " and ".join(f"`{other}`" for other in sorted(pinned))
    return InsufficientStorage(
        f"there is no room for `{name}` beside {kept}, which the settings keep loaded",
        hint="remove `pin` from one of them, or choose a smaller model",
    )


def out_of_memory(plan: EnginePlan, name: str) -> InsufficientStorage:
    """The error for the model `name` whose worker was killed while it carried out a `plan` that does not fit."""
    needs = [
        f"{memory.total / 2**30:.1f} GiB on {memory.device} where {memory.available / 2**30:.1f} GiB are free"
        for memory in plan.memory
        if memory.available is not None and memory.total > memory.available
    ]
    return InsufficientStorage(
        f"`{name}` was killed while loading; by the estimate it needs {' and '.join(needs) or 'more than is free'}",
        hint="choose a smaller model, or a smaller `context` in the settings",
    )
