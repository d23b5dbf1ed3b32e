"""What loads really took and how fast models really ran, kept for the plans to come."""

from __future__ import annotations

from llmserve.fleet.record import Instance
from llmserve.planning.measurements import (
    Choices,
    Knowledge,
    LoadMeasurement,
    RunMeasurement,
    expected_at_load,
    taken_bytes,
)
from llmserve.state.database import Key, StateDatabase
from llmserve.types import HardwareInfo


class History:
    """Over a database. All methods block on the disk, and none raises for it."""

    def __init__(self, database: StateDatabase) -> None:
        self._database = database

    def knowledge(self, key: Key) -> Knowledge:
        """What was measured under `key`."""
        return self._database.knowledge(key)

    def note_load(self, instance: Instance, hardware_after: HardwareInfo) -> None:
        """The instance has become ready, and `hardware_after` is what was free then."""
        taken = taken_bytes(instance.plan, instance.resident_bytes, hardware_after)
        if instance.key is None or not taken:
            return
        load = LoadMeasurement(expected_at_load(instance.plan), taken, instance.load_seconds)
        self._database.record_load(instance.key, load)

    def note_run(self, instance: Instance) -> None:
        """The instance has ended; nothing is kept of one that computed nothing, or did not tell."""
        counts = instance.speed.counts
        if instance.key is None or not counts.get("step_seconds") or not counts.get("steps"):
            return
        run = RunMeasurement(
            choices=Choices.of(instance.plan),
            gpu_layers=instance.plan.gpu_layers,
            steps=int(counts["steps"]),
            step_seconds=counts["step_seconds"],
            prompt_tokens=int(counts.get("prompt_tokens", 0)),
            generated_tokens=int(counts.get("generated_tokens", 0)),
        )
        self._database.record_run(instance.key, run)
