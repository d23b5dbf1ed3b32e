"""`llmserve probe`: what this machine is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmserve.cli.terminal import bytes_text, print_json, print_table

if TYPE_CHECKING:
    from llmserve.types import CpuInfo, GpuInfo, HardwareInfo, MemoryInfo


@click.command("probe")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as `plan --hardware` reads it.")
def command(as_json: bool) -> None:
    """Show the hardware and the installed engines."""
    from llmserve.engines.machine import probe_for
    from llmserve.settings import load_settings

    hardware = probe_for(load_settings())
    if as_json:
        print_json(hardware)
    else:
        print_table(_rows(hardware))


def _rows(hardware: HardwareInfo) -> list[tuple[str, str]]:
    vulkan = {True: "present", False: "none", None: "unknown"}[hardware.vulkan]
    return [
        ("system", hardware.system),
        ("cpu", _cpu_text(hardware.cpu)),
        ("features", " ".join(hardware.cpu.features) or "none that matter"),
        ("memory", _memory_text(hardware.memory)),
        *[(f"gpu {gpu.index}", _gpu_text(gpu)) for gpu in hardware.gpus],
        *([] if hardware.gpus else [("gpu", "none")]),
        ("vulkan", vulkan),
        *[(engine.engine, _engine_text(engine.version, engine.devices, engine.detail)) for engine in hardware.engines],
        *[("probe", f"{note.probe}: {note.finding}") for note in hardware.notes],
    ]


def _cpu_text(cpu: CpuInfo) -> str:
    cores = "unknown" if cpu.physical_cores is None else str(cpu.physical_cores)
    quota = "" if cpu.quota is None else f", quota {cpu.quota:g}"
    return f"{cpu.model or 'unknown'} ({cpu.architecture}; {cores} cores, {cpu.usable_cpus} usable CPUs{quota})"


def _memory_text(memory: MemoryInfo) -> str:
    limit = "" if memory.limit is None else f" (limited to {bytes_text(memory.limit)})"
    return f"{bytes_text(memory.total)}, {bytes_text(memory.available)} available{limit}"


def _gpu_text(gpu: GpuInfo) -> str:
    facts: list[str] = [gpu.device]
    if gpu.compute_capability is not None:
        facts.append("compute capability {}.{}".format(*gpu.compute_capability))
    if gpu.architecture is not None:
        facts.append(gpu.architecture)
    facts.append(f"{bytes_text(gpu.total_memory)}, {bytes_text(gpu.free_memory)} free")
    if gpu.unified_memory:
        facts.append("shared with the CPU")
    if gpu.driver_version is not None:
        facts.append(f"driver {gpu.driver_version}")
    if gpu.runtime_version is not None:
        facts.append(f"{gpu.device} {gpu.runtime_version}")
    return f"{gpu.name} ({'; '.join(facts)})"


def _engine_text(version: str | None, devices: tuple[str, ...], detail: str) -> str:
    if not devices:
        return f"not usable: {detail}"
    return f"{version or 'unknown version'} on {', '.join(devices)}" + (f" ({detail})" if detail else "")
