"""The table of expected plans in `plans.csv`: one row for each machine and model.

    python -m tests.planning.table

writes it anew after a rule has changed; the difference is then to be read line by line before it is committed.
"""

from __future__ import annotations

import csv
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from llmserve.planning.plan import plan
from llmserve.settings import Settings
from tests.planning.machines import NAMES, machine
from tests.planning.models import GGUF_MODELS

FILE = Path(__file__).with_name("plans.csv")


@dataclass(frozen=True)
class Row:
    """The numbers of a plan, as text. `devices` are parted by spaces; so is how the layers are split over the GPUs."""

    machine: str
    model: str
    devices: str
    gpu_layers: str
    gpu_split: str
    experts_in_ram: str
    context: str
    parallel: str
    kv_cells: str
    kv_type: str
    kv_layout: str
    threads: str
    ram_mib: str
    gpu_mib: str
    fits: str


def row(name: str, model: str) -> Row:
    """What is planned now."""
    decided = plan(machine(name), GGUF_MODELS[model], Settings())
    ram, *gpus = decided.memory
    return Row(
        machine=name,
        model=model,
        devices=" ".join(decided.devices),
        gpu_layers=f"{decided.gpu_layers}/{decided.total_layers}",
        gpu_split=" ".join(map(str, decided.gpu_split)),
        experts_in_ram=str(decided.experts_in_ram),
        context=str(decided.context),
        parallel=str(decided.parallel),
        kv_cells=str(decided.kv_cells),
        kv_type=decided.kv_type,
        kv_layout=decided.kv_layout,
        threads=str(decided.threads),
        ram_mib=str(round(ram.total / 2**20)),
        gpu_mib=" ".join(str(round(entry.total / 2**20)) for entry in gpus),
        fits="yes" if decided.fits else "no",
    )


def read() -> list[Row]:
    with FILE.open(encoding="utf-8", newline="") as stream:
        return [Row(**values) for values in csv.DictReader(stream)]


def main() -> None:
    with FILE.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row(name, model)) for name in NAMES for model in GGUF_MODELS)


if __name__ == "__main__":
    main()
