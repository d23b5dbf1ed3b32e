"""`llmserve doctor`: what is wrong with this machine for serving models, and the command that mends it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmserve.cli.terminal import print_json, print_table

if TYPE_CHECKING:
    from llmserve.planning.diagnosis import Surroundings
    from llmserve.settings import Settings


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Check hardware, engines, limits and settings. The exit code is 1 if something is broken."""
    from llmserve.engines.machine import probe_for
    from llmserve.planning.diagnosis import diagnose
    from llmserve.settings import load_settings

    settings = load_settings()
    findings = diagnose(probe_for(settings), _surroundings(settings))
    if as_json:
        print_json(findings)
    else:
        print_table([(finding.verdict, finding.check, finding.finding) for finding in findings])
        commands = list(dict.fromkeys(finding.command for finding in findings if finding.command is not None))
        if commands:
            click.echo()
            print_table([("to mend it:" if index == 0 else "", line) for index, line in enumerate(commands)])
    if any(finding.verdict == "broken" for finding in findings):
        raise click.exceptions.Exit(1)


def _surroundings(settings: Settings) -> Surroundings:
    from llmserve.hardware import surroundings
    from llmserve.planning.diagnosis import Surroundings
    from llmserve.settings import DEFAULT_HOST, DEFAULT_PORT, home_directory

    home = home_directory(settings)
    host, port = settings.host or DEFAULT_HOST, DEFAULT_PORT if settings.port is None else settings.port
    named, spared = surroundings.proxies(os.environ)
    answer = "nothing"
    if surroundings.listens(host, port):
        answer = "llmserve" if _is_llmserve(settings) else "another program"
    return Surroundings(
        home=str(home),
        home_writable=surroundings.is_writable(home),
        home_mode=surroundings.mode_of(home),
        disk_free=surroundings.free_bytes(home),
        address=f"{host}:{port}",
        port_answer=answer,  # type: ignore[arg-type]  # one of the three
        proxies=named,
        proxy_spares_loopback=spared,
        now=time.time(),
        latest_file=Path(__file__).stat().st_mtime,
        open_files=surroundings.open_files_limit(),
        memory_bytes_per_second=surroundings.memory_speed(),
        build_features=_build_features(),
        device_files=surroundings.forbidden_devices(),
    )


def _is_llmserve(settings: Settings) -> bool:
    from llmserve.cli.connection import gateway_at
    from llmserve.errors import LlmserveError

    try:
        with gateway_at(settings) as gateway:
            gateway.health(timeout=2.0)
    except LlmserveError:
        return False
    return True


def _build_features() -> tuple[str, ...]:
    """The instruction sets that the installed CPU engine was compiled for; empty where that is not known."""
    from llmserve.engines.llama_cpp import parse_report
    from llmserve.hardware.child import run_child
    from llmserve.hardware.failure import ProbeFailed

    try:
        return parse_report(run_child("llmserve.engines.llama_cpp:read_libraries", timeout=5.0)).instruction_sets
    except ProbeFailed:
        return ()
