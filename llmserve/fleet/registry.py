"""The records of all models, the news that one has changed, and the chores that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any

from llmserve.fleet.record import Instance, ModelRecord
from llmserve.fleet.turnover import Turnover, UnloadCause


class Registry:
    """Shared by the parts of a fleet. All methods belong to one event loop's thread."""

    def __init__(self) -> None:
        self._records: dict[str, ModelRecord] = {}
        self.turnover = Turnover()
        self._changed = asyncio.Event()
        self._chores: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[ModelRecord]:
        """All records, by name."""
        return iter([self._records[name] for name in sorted(self._records)])

    def get(self, name: str) -> ModelRecord | None:
        return self._records.get(name)

    def add(self, record: ModelRecord) -> ModelRecord:
        self._records[record.name] = record
        return record

    def ready(self) -> list[Instance]:
        """The instances that serve."""
        return [record.instance for record in self if record.state == "ready" and record.instance is not None]

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next `announce`. Take it first, then look at the state, then wait: so no change is missed."""
        return self._changed

    def announce(self) -> None:
        """A model became ready, idle or was unloaded: wake whoever waits for that."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def retire(self, name: str, cause: UnloadCause, *, because: str = "was stopped") -> None:
        """Begin to unload a ready model; its life ends with its worker. Nothing for another one."""
        record = self._records[name]
        if record.state == "ready" and record.instance is not None:
            record.state = "stopping"
            self.turnover.unloads[name, cause] += 1
            self.chore(record.instance.worker.stop(because=because))

    async def until_ended(self, records: Iterable[ModelRecord]) -> None:
        """Wait for the present lives of these models to end."""
        lives = [record.life for record in records if record.life is not None]
        if lives:
            await asyncio.wait(lives)

    def chore(self, work: Coroutine[Any, Any, None]) -> None:
        """Have `work` done; `until_done` waits for it."""
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def until_done(self) -> None:
        while self._chores:
            await asyncio.wait(self._chores)
