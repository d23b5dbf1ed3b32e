"""`llmserve plan`: how a model would be run, and why, without loading it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmserve.cli.bars import legend, memory_bar
from llmserve.cli.model_names import known_models
from llmserve.cli.options import plan_options
from llmserve.cli.terminal import bytes_text, print_json, print_table
from llmserve.errors import InvalidRequest

if TYPE_CHECKING:
    from llmserve.planning.measurements import Knowledge
    from llmserve.settings import Settings
    from llmserve.types import DeviceMemory, EnginePlan, HardwareInfo, ModelInfo


@click.command("plan")
@click.argument("model", shell_complete=known_models)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--hardware",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Plan for the machine that FILE describes (the output of `probe --json`) instead of this one.",
)
@plan_options
def command(model: str, as_json: bool, hardware: Path | None, **flags: Any) -> None:
    """Show how MODEL would be run here, and why. Nothing is loaded."""
    from llmserve.planning.advice import what_would_change
    from llmserve.planning.plan import plan
    from llmserve.settings import load_settings

    settings = load_settings(flags)
    info = _inspect(settings, model)
    machine = _this_machine(settings) if hardware is None else read_hardware(hardware)
    knowledge = _knowledge(settings, machine, model)
    decided = plan(machine, info, settings, knowledge)
    if as_json:
        print_json(decided)
    else:
        _print_plan(decided, what_would_change(machine, info, settings, decided, knowledge))


def read_hardware(path: Path) -> HardwareInfo:
    """The machine that `path` describes. Raises `InvalidRequest` naming the field that is missing or wrong."""
    from llmserve.types import HardwareInfo, InvalidJson, from_json

    try:
        return from_json(HardwareInfo, path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"cannot read the hardware file `{path}`: {error.strerror}") from error
    except InvalidJson as error:
        raise InvalidRequest(
            f"`{path}` does not describe a machine: {error}",
            param=error.path or None,
            hint="`llmserve probe --json` prints the format",
        ) from error


def _this_machine(settings: Settings) -> HardwareInfo:
    from llmserve.engines.machine import probe_for

    return probe_for(settings)


def _knowledge(settings: Settings, machine: HardwareInfo, model: str) -> Knowledge:
    """What was measured on that machine of the model; nothing of a file that the store does not know."""
    from llmserve.cli.models import known_model, open_store
    from llmserve.errors import ModelNotFound
    from llmserve.planning.measurements import NOTHING_KNOWN
    from llmserve.settings import home_directory
    from llmserve.state.database import StateDatabase, engine_for, key_of

    try:
        installed = known_model(open_store(settings), model)
    except ModelNotFound:
        return NOTHING_KNOWN
    return StateDatabase.in_home(home_directory(settings)).knowledge(
        key_of(machine, installed, engine_for(installed.format))
    )


def _inspect(settings: Settings, model: str) -> ModelInfo:
    """What the model's file says; a file given by its path is read where it is and not added to the store."""
    from llmserve.cli.models import open_store

    return open_store(settings).inspect(model)


def _sequences(plan: EnginePlan) -> str:
    if plan.kv_layout == "split":
        return f"{plan.parallel} sequences, each with {plan.kv_cells // plan.parallel} KV cells of its own"
    return f"{plan.parallel} sequences in {plan.kv_cells} KV cells"


def _prefixes(plan: EnginePlan) -> str:
    disk = f"up to {bytes_text(plan.prefix_disk_bytes)}" if plan.prefix_disk_bytes else "none"
    return f"{plan.saved_tokens} tokens in RAM, {disk} on the disk from run to run"


def _gpu_layers(plan: EnginePlan) -> str:
    experts = f", without the experts of {plan.experts_in_ram}" if plan.experts_in_ram else ""
    return f"{plan.gpu_layers} of {plan.total_layers}{experts}"


def _print_plan(plan: EnginePlan, changes: Sequence[str]) -> None:
    print_table(
        [
            ("engine", plan.engine),
            ("devices", ", ".join(plan.devices)),
            ("gpu layers", _gpu_layers(plan)),
            ("context", f"{plan.context} tokens"),
            ("parallel", _sequences(plan)),
            ("kv type", plan.kv_type),
            ("threads", f"{plan.threads} (waiting {'awake' if plan.wait_policy == 'active' else 'asleep'})"),
            ("batch", f"{plan.batch} tokens, {plan.micro_batch} per graph"),
            ("flash attention", "yes" if plan.flash_attention else "no"),
            *([("drafts", "yes" if plan.speculation else "no")] if plan.engine == "llama.cpp" else []),
            ("prefixes", _prefixes(plan)),
            ("fits", "yes" if plan.fits else "no: more than is available"),
            ("why", plan.reason),
            *[("refused", f"{refusal.option}: {refusal.reason}") for refusal in plan.refused],
            *[("change", sentence) for sentence in changes],
        ]
    )
    click.echo()
    print_table(
        [_memory_row(memory) for memory in plan.memory],
        ("MEMORY", "WEIGHTS", "KV CACHE", "COMPUTE", "OVERHEAD", "PREFIXES", "TOTAL", "AVAILABLE"),
    )
    click.echo()
    print_table([(memory.device, memory_bar(memory), _share(memory)) for memory in plan.memory])
    click.echo(legend())


def _share(memory: DeviceMemory) -> str:
    if not memory.available:
        return bytes_text(memory.total)
    return f"{bytes_text(memory.total)} of {bytes_text(memory.available)}, {memory.total / memory.available:.0%}"


def _memory_row(memory: DeviceMemory) -> tuple[str, ...]:
    overhead = memory.overhead + memory.correction
    parts = (memory.weights, memory.kv_cache, memory.compute, overhead, memory.saved_prefixes)
    return (memory.device, *map(bytes_text, (*parts, memory.total, memory.available)))
