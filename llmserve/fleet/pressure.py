"""Memory that other programs need: idle models give theirs back before the system runs out of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from llmserve.fleet.registry import Registry
from llmserve.planning.eviction import LoadedModel
from llmserve.types import HardwareInfo, MemoryInfo

CHECK_SECONDS = 5.0
# Where the settings say nothing: a fortieth of the RAM, at most this.
_LARGEST_DEFAULT_BYTES = 512 * 2**20
_DEFAULT_SHARE = 40

logger = logging.getLogger(__name__)


class Pressure:
    """Unloads idle models while less than `reserve_bytes` of RAM are available (None: a small share of it)."""

    def __init__(self, registry: Registry, machine: Callable[[], HardwareInfo], reserve_bytes: int | None) -> None:
        self._registry = registry
        self._machine = machine
        self._reserve_bytes = reserve_bytes

    async def run(self) -> None:
        """Look every few seconds, as long as there is anything to give back."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.relieve()

    async def relieve(self) -> None:
        """Look once: unload the least valuable idle model if memory is short."""
        if not self._idle():
            return
        memory = (await asyncio.to_thread(self._machine)).memory
        idle = self._idle()
        if idle and is_short(memory, self._reserve_bytes):
            name = min(idle, key=lambda model: model.value).name
            logger.warning("unloading %s, because other programs need its memory", name)
            self._registry.retire(name, "pressure")

    def _idle(self) -> list[LoadedModel]:
        loaded = [instance.on_device("ram") for instance in self._registry.ready()]
        return [model for model in loaded if model.bytes and not model.leases and not model.pinned]


def is_short(memory: MemoryInfo, reserve_bytes: int | None) -> bool:
    """Whether less RAM is available than is to be kept free."""
    if memory.available is None:
        return False
    if reserve_bytes is None:
        reserve_bytes = min((memory.total or 0) // _DEFAULT_SHARE, _LARGEST_DEFAULT_BYTES)
    return memory.available < reserve_bytes


def reserving(machine: Callable[[], HardwareInfo], reserve_bytes: int) -> Callable[[], HardwareInfo]:
    """`machine` for the planner: without the RAM that is to be kept free."""

    def measure() -> HardwareInfo:
        hardware = machine()
        available = hardware.memory.available
        if available is None:
            return hardware
        return replace(hardware, memory=replace(hardware.memory, available=max(0, available - reserve_bytes)))

    return measure
