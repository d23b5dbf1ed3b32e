"""`llmserve tune`: measure which settings run a model fastest on this machine, and keep them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmserve.cli.bars import speed_bar
from llmserve.cli.terminal import print_json, print_table, status, talk, warn
from llmserve.errors import Conflict, InvalidRequest, LlmserveError, StartupFailed, Unavailable, WrongModelKind

if TYPE_CHECKING:
    from llmserve.planning.candidates import Case, Shape
    from llmserve.planning.contest import Result, Standing, Trial, Verdict
    from llmserve.settings import Settings
    from llmserve.types import HardwareInfo, InstalledModel, ModelInfo

# What comparing anything takes, for each kind of load.
_LEAST_MINUTES = 1.0
_DEFAULT_MINUTES = 10.0
# Other processes may use this much of the processors before the person is warned.
_BUSY_SHARE = 0.15


@click.command("tune")
@click.argument("model")
@click.option("--clients", type=click.IntRange(1, 256), metavar="N", help="Measure for N users at once, nothing else.")
@click.option(
    "--minutes",
    type=click.FloatRange(_LEAST_MINUTES, 24 * 60),
    default=_DEFAULT_MINUTES,
    show_default=True,
    metavar="M",
    help="How long it may take in all.",
)
@click.option("--quantized-kv", is_flag=True, help="Try KV caches of 8 and 4 bits too, which change answers a little.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, clients: int | None, minutes: float, quantized_kv: bool, as_json: bool) -> None:
    """Measure which settings run MODEL fastest here.

    Candidates (threads, batches, flash attention, drafts and others) are loaded with requests, one after the other: for
    one user, for 16 users at once and for long prompts. The fastest of each is kept, and used from then on wherever the
    settings leave the choice; `llmserve plan` says so. Let nothing else run meanwhile.
    """
    from llmserve.cli.models import installed_model, open_store
    from llmserve.engines.machine import probe_for
    from llmserve.planning.candidates import Case, shapes
    from llmserve.planning.measurements import NOTHING_KNOWN
    from llmserve.settings import home_directory, load_settings

    settings = load_settings()
    store = open_store(settings)
    installed = installed_model(store, model)
    info = store.inspect(installed.name)
    _refuse_other_kinds(installed, info)
    loads = shapes(clients)
    if minutes < _LEAST_MINUTES * len(loads):
        raise InvalidRequest(
            f"{minutes:g} minutes are too short for {len(loads)} kinds of load",
            param="minutes",
            hint=f"a minute for each is the least: --minutes {len(loads)}, or --clients N for one of them",
        )
    with _nobody_else_tunes(home_directory(settings)):
        hardware = probe_for(settings)
        # What a trial keeps on the disk would help the next one.
        case = Case(hardware, info, replace(settings, prefix_disk=0), NOTHING_KNOWN, loads[0], lossy=quantized_kv)
        verdicts = [_tune(settings, installed, case, load, minutes * 60 / len(loads), not as_json) for load in loads]
    if as_json:
        print_json([_as_data(verdict) for verdict in verdicts])
    elif any(verdict.certain for verdict in verdicts):
        talk(f"from its next load on {installed.name} is run so: `llmserve plan {installed.name}` says why")


def _refuse_other_kinds(installed: InstalledModel, info: ModelInfo) -> None:
    if info.kind != "generate":
        raise WrongModelKind(
            f"`{installed.name}` is an embedding model, for which there is nothing to tune", param="model"
        )
    if info.format != "gguf":
        raise InvalidRequest(
            f"`{installed.name}` is in {info.format} format: vLLM runs it, and has nothing that tuning chooses",
            param="model",
            hint="tuning is for GGUF files",
        )


@contextmanager
def _nobody_else_tunes(home: Path) -> Iterator[None]:
    """Hold the lock of all that measure with this data directory. Raises `Conflict`."""
    from llmserve.store.files import storage_errors
    from llmserve.store.locks import take_lock

    other = Conflict("another `llmserve tune` is measuring", hint="wait until it has ended")
    with storage_errors("lock the data directory", StartupFailed):
        descriptor = take_lock(home / "locks" / "tune", other)
    try:
        yield
    finally:
        os.close(descriptor)


def _refuse_beside_a_server(settings: Settings, model: InstalledModel) -> None:
    """Raise `Conflict` where a server at the settings' address has the model loaded, or computes anything."""
    from llmserve.cli.connection import gateway_at

    with gateway_at(settings) as gateway:
        try:
            gateway.health(timeout=2.0)
        except Unavailable:
            return
        try:
            loaded = [other for other in gateway.ps() if other.state != "failed"]
        except LlmserveError as error:
            warn(f"the server at {gateway.address} does not tell what it has loaded: {error.message}")
            return
        server = f"the server at {gateway.address}"
    for other in loaded:
        if other.name == model.name:
            raise Conflict(
                f"{server} has `{model.name}` loaded, and what is measured beside it is wrong",
                hint=f"unload it with `llmserve stop {model.name}`, or stop the server",
            )
        if other.state == "loading" or other.leases or other.waiting:
            raise Conflict(
                f"{server} computes for `{other.name}`, and what is measured meanwhile is wrong",
                hint="wait until its requests have ended, or stop the server",
            )


def _tune(settings: Settings, model: InstalledModel, case: Case, load: Shape, seconds: float, show: bool) -> Verdict:
    """Hold the contest for one kind of load, and keep its winner."""
    from llmserve.planning.formatting import counted
    from llmserve.settings import home_directory
    from llmserve.state.database import StateDatabase, key_of

    _refuse_beside_a_server(settings, model)
    _warn_if_busy(case.hardware)
    database = StateDatabase.in_home(home_directory(settings))
    key = key_of(case.hardware, model, "llama.cpp")
    case = replace(case, shape=load, knowledge=database.knowledge(key))
    talk(f"{load.title}: up to {counted(round(seconds / 60), 'minute')}")
    with _shown() as report:
        verdict = asyncio.run(_contest(settings, model, case, seconds, report))
    # What came meanwhile has spoilt it.
    _refuse_beside_a_server(settings, model)
    if show:
        _print_verdict(verdict)
    if verdict.certain:
        database.record_tuned(key, verdict.winner)
    elif not verdict.compared:
        warn("there was no time to compare enough, so nothing is kept: allow more --minutes")
    else:
        warn(f"speeds varied by {verdict.noise:.0%}, so nothing is kept: measure again when nothing else runs")
    return verdict


async def _contest(settings: Settings, model: InstalledModel, case: Case, seconds: float, report: _Shown) -> Verdict:
    from llmserve.fleet.fleet import DEFAULT_LOAD_TIMEOUT_SECONDS
    from llmserve.fleet.launcher import Launcher
    from llmserve.fleet.trials import Trials
    from llmserve.planning.contest import contest

    launcher = Launcher(settings)
    trials = Trials(launcher, model, case.shape, settings.load_timeout or DEFAULT_LOAD_TIMEOUT_SECONDS)
    try:
        return await trials.hold(contest(case, seconds), report)
    finally:
        await launcher.close()


def _warn_if_busy(hardware: HardwareInfo) -> None:
    from llmserve.hardware.surroundings import busy_processors

    busy = busy_processors()
    if busy > _BUSY_SHARE * hardware.cpu.usable_cpus:
        warn(f"other processes keep {busy:.1f} of {hardware.cpu.usable_cpus} processors busy: speeds will vary")


class _Shown:
    """Tells the person on stderr what is measured and what that gave."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __call__(self, trial: Trial, result: Result | None) -> None:
        from llmserve.planning.contest import Measured

        self.clear()
        if result is None:
            self._stack.enter_context(status(f"  measuring {trial.candidate.name} ..."))
        elif isinstance(result, Measured):
            talk(f"  {trial.candidate.name}: {result.tokens_per_second:.1f} tokens/s")
        else:
            talk(f"  {trial.candidate.name}: {result.reason}")

    def clear(self) -> None:
        self._stack.close()


@contextmanager
def _shown() -> Iterator[_Shown]:
    shown = _Shown()
    try:
        yield shown
    finally:
        shown.clear()


def _print_verdict(verdict: Verdict) -> None:
    from llmserve.planning.measurements import Choices

    winner, noise = verdict.winner, f"{verdict.noise:.0%}"
    fastest = max(standing.tokens_per_second or 0.0 for standing in verdict.standings)
    rows = [_row(standing, fastest) for standing in verdict.standings]
    print_table(rows, (verdict.shape.title.upper(), "TOKENS/S", "RATIO", "", ""))
    if winner.choices == Choices() and verdict.certain:
        click.echo(f"nothing is faster than the rules' plan by more than the noise of {noise}\n")
    elif verdict.certain:
        gain = winner.tokens_per_second / winner.rules_tokens_per_second
        click.echo(f"the fastest: {winner.choices.described()}, {gain:.2f} times the rules' plan (noise {noise})\n")


def _row(standing: Standing, fastest: float) -> tuple[str, ...]:
    speed, ratio = standing.tokens_per_second, standing.ratio
    if speed is None or ratio is None:
        return (standing.candidate.name, "", "", "", standing.reason or "")
    note = "changes answers a little" if standing.candidate.choices.kv_type is not None else ""
    return (standing.candidate.name, f"{speed:.1f}", f"{ratio:.2f}", speed_bar(speed, fastest), note)


def _as_data(verdict: Verdict) -> dict[str, Any]:
    return {
        "shape": verdict.shape.name,
        "clients": verdict.shape.clients,
        "noise": verdict.noise,
        "kept": verdict.certain,
        "winner": verdict.winner,
        "candidates": [
            {
                "name": standing.candidate.name,
                "choices": standing.candidate.choices,
                "tokens_per_second": standing.tokens_per_second,
                "ratio": standing.ratio,
                "measurements": standing.measurements,
                "reason": standing.reason,
            }
            for standing in verdict.standings
        ],
    }
