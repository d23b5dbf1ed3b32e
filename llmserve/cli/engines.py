"""`llmserve engines`: what computes, in environments of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from llmserve.choices import Device, Engine
from llmserve.cli.terminal import age_text, bytes_text, print_json, print_table, talk

if TYPE_CHECKING:
    from llmserve.engines.build import Build
    from llmserve.engines.environment import Environment
    from llmserve.engines.progress import InstallProgress, Report
    from llmserve.settings import Settings
    from llmserve.types import HardwareInfo

_DEVICE = click.Choice(get_args(Device))
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print each step as a line of JSON.")


@click.group("engines")
def command() -> None:
    """Install, list, update and remove engines.

    An engine has an environment of its own under the data directory, so that what it needs disturbs nothing else.
    """


@command.command("install")
@click.argument("engine", type=click.Choice(get_args(Engine)))
@click.option("--device", type=_DEVICE, help="Build for this device instead of the one that is found.")
@click.option("--prebuilt", is_flag=True, help="llama.cpp: take its project's own wheel instead of compiling.")
@click.option("--dry-run", is_flag=True, help="Tell what would be installed, and why, and stop.")
@_AS_JSON
def install(engine: Engine, device: Device | None, prebuilt: bool, dry_run: bool, as_json: bool) -> None:
    """Install ENGINE in the build that fits this machine.

    \b
    vllm         serves safetensors models: the wheels for CUDA, or those for processors
    llama.cpp    serves GGUF models: compiled here, for the GPU and the instruction sets that are found

    pip does the work, with your own configuration of it. Nothing is left of an installation that does not succeed.
    """
    from llmserve.engines.installer import existing
    from llmserve.settings import home_directory, load_settings

    settings = load_settings()
    build = _build(engine, _this_machine(settings), device, prebuilt=prebuilt)
    _tell_build(build, as_json=as_json)
    if dry_run:
        return
    home = home_directory(settings)
    if (found := existing(build, home)) is not None:
        _tell_done(found, as_json=as_json, words="is installed already")
    else:
        _install(build, home, as_json=as_json)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List the engines that are installed, in environments of their own and otherwise."""
    from llmserve.engines.inventory import inventory
    from llmserve.settings import home_directory, load_settings

    settings = load_settings()
    entries = inventory(home_directory(settings), settings.vllm_python)
    if as_json:
        print_json(entries)
    elif not entries:
        talk("no engine is installed")
    else:
        print_table(
            [
                (
                    *(entry.name, entry.engine, entry.version, entry.device or "other"),
                    "-" if entry.size_bytes is None else bytes_text(entry.size_bytes),
                    "-" if entry.installed_at is None else age_text(entry.installed_at),
                    entry.state,
                )
                for entry in entries
            ],
            ("NAME", "ENGINE", "VERSION", "DEVICE", "SIZE", "INSTALLED", "STATE"),
        )


@command.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Remove the environment NAME, or all of an engine (vllm, llama.cpp)."""
    from llmserve.engines import installer
    from llmserve.settings import home_directory, load_settings

    for environment in _named(home_directory(load_settings()), name):
        freed = installer.remove(environment)
        talk(f"removed {environment.name} ({bytes_text(freed)})")


@command.command("update")
@click.argument("name", required=False)
@_AS_JSON
def update(name: str | None, as_json: bool) -> None:
    """Bring the environment NAME, all of an engine, or all there are to the version that belongs to this llmserve."""
    from llmserve.engines import installer
    from llmserve.settings import home_directory, load_settings

    settings = load_settings()
    home = home_directory(settings)
    hardware = _this_machine(settings)
    for environment in _named(home, name):
        record = environment.record
        build = _build(record.engine, hardware, record.device, prebuilt=False)
        if installer.existing(build, home) is not None:
            _tell_done(environment, as_json=as_json, words="is up to date")
            continue
        _tell_build(build, as_json=as_json)
        _install(build, home, as_json=as_json)
        if environment.folder.name != installer.name_of(build):
            installer.remove(environment)


def _this_machine(settings: Settings) -> HardwareInfo:
    from llmserve.engines.machine import probe_for

    return probe_for(settings)


def _build(engine: Engine, hardware: HardwareInfo, device: Device | None, *, prebuilt: bool) -> Build:
    from llmserve.engines.build import llama_cpp_build, vllm_build
    from llmserve.errors import InvalidRequest

    if engine == "llama.cpp":
        return llama_cpp_build(hardware, device, prebuilt=prebuilt)
    if prebuilt:
        raise InvalidRequest("`--prebuilt` is for llama.cpp: vLLM is never compiled here", param="prebuilt")
    return vllm_build(hardware, device)


def _named(home: Path, name: str | None) -> list[Environment]:
    """The environments of that name or engine; all for None. Raises `NotFound` where there is none of that name."""
    from llmserve.engines.environment import environments
    from llmserve.errors import NotFound

    found = [entry for entry in environments(home) if name in {None, entry.name, entry.record.engine}]
    if not found and name is not None:
        raise NotFound(
            f"there is no environment of an engine called `{name}`",
            param="name",
            hint="`llmserve engines list` shows those that are installed",
        )
    return found


def _install(build: Build, home: Path, *, as_json: bool) -> None:
    import os

    from llmserve.engines.installer import install
    from llmserve.engines.toolchain import package_installer, toolchain

    variables = None
    if build.from_source:
        tools = toolchain(build.device, environ=os.environ, installer=package_installer())
        variables = tools.applied(os.environ)
    with _events() if as_json else _shown_progress() as report:
        environment = install(build, home, report, variables)
    _tell_done(environment, as_json=as_json, words="is installed")


def _tell_build(build: Build, *, as_json: bool) -> None:
    if as_json:
        _print_event(stage="choosing", option=f"{build.distribution}=={build.version}", reason=build.reason)
    else:
        talk(f"taking {build.distribution} {build.version}: {build.reason}")


def _tell_done(environment: Environment, *, as_json: bool, words: str) -> None:
    from llmserve.types import to_json

    if as_json:
        record = json.loads(to_json(environment.record))
        _print_event(stage="done", name=environment.name, python=str(environment.python), environment=record)
    else:
        talk(f"{environment.name} {words} ({bytes_text(environment.record.size_bytes)})")


def _print_event(**event: object) -> None:
    click.echo(json.dumps(event))


@contextmanager
def _events() -> Iterator[Report]:
    def report(progress: InstallProgress) -> None:
        facts = {"package": progress.package, "completed": progress.completed, "total": progress.total}
        free = {} if progress.free is None else {"free": progress.free}
        _print_event(stage=progress.stage, **facts, **free)

    yield report


@contextmanager
def _shown_progress() -> Iterator[Report]:
    """What happens, for a person on stderr: a line that changes on a terminal, a line per step in a log."""
    from llmserve.cli.install_progress import ShownProgress

    with ShownProgress() as shown:
        yield shown.report
