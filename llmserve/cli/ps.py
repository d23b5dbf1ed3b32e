"""`llmserve ps`: the models that are loaded now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmserve.cli.terminal import bytes_text, print_json, print_table, talk, warn

if TYPE_CHECKING:
    from llmserve.fleet.status import ModelStatus


@click.command("ps")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the models that the running server has loaded."""
    from llmserve.cli.connection import running_gateway
    from llmserve.settings import load_settings

    with running_gateway(load_settings()) as gateway:
        models = gateway.ps()
    if as_json:
        print_json(models)
        return
    if not models:
        talk("no model is loaded")
        return
    header = ("NAME", "STATE", "ENGINE", "DEVICES", "MEMORY", "CONTEXT", "REQUESTS", "WAITING", "TOKENS/S", "UNLOADS")
    print_table(map(_row, models), header)
    for model in models:
        if model.fallback is not None:
            warn(f"{model.name} runs on {model.fallback}")
        if model.last_error is not None:
            warn(f"{model.name}: {model.last_error}")


def _row(model: ModelStatus) -> tuple[str, ...]:
    plan = model.plan
    state = model.state if model.phase is None else f"{model.state}: {model.phase}"
    if model.progress is not None:
        state = f"{state} {model.progress:.0%}"
    unloads = "pinned" if model.pinned else ""
    if model.unload_in_seconds is not None:
        unloads = f"in {model.unload_in_seconds:.0f} s"
    waiting = str(model.waiting)
    if model.wait_seconds is not None:
        waiting = f"{waiting} (about {model.wait_seconds:.0f} s)"
    planned = (
        ("", "", "", "")
        if plan is None
        else (
            plan.engine,
            ", ".join(plan.devices),
            bytes_text(sum(device.total for device in plan.memory)),
            str(plan.context),
        )
    )
    speed = "" if model.tokens_per_second is None else f"{model.tokens_per_second:.1f}"
    return (model.name, state, *planned, str(model.leases), waiting, speed, unloads)
