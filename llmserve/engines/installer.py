"""Installing an engine into an environment of its own: complete and checked, or not there at all.

Everything happens in a scratch directory beside the environments. What is there when the process is killed is removed
by the next installation; only a finished environment is renamed into place.
"""

from __future__ import annotations

import os
import shutil
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from llmserve.engines import verification
from llmserve.engines.build import Build, Step
from llmserve.engines.environment import (
    RECORD,
    SCRATCH,
    Environment,
    Record,
    engines_directory,
    environments,
    folder_name,
    interpreter,
    now,
    site_packages,
    users,
)
from llmserve.engines.pip import Pip, PipFailed
from llmserve.engines.progress import InstallProgress, Report
from llmserve.errors import Conflict, InstallFailed, InsufficientStorage
from llmserve.hardware.failure import ProbeFailed
from llmserve.planning.formatting import human_bytes
from llmserve.store.files import free_bytes, private_directory, require_space
from llmserve.store.locks import take_lock
from llmserve.store.old_pip import how_to_renew
from llmserve.store.scratch import scratch
from llmserve.types import to_json

_LOCK = ".installing"
_PYTHON = "{}.{}".format(*sys.version_info)


def name_of(build: Build) -> str:
    """The name of the environment that `build` makes."""
    return folder_name(build.engine, build.version, build.device)


def existing(build: Build, home: Path) -> Environment | None:
    """The complete environment that `build` would make, if it is there and its Python still is."""
    found = (entry for entry in environments(home, build.engine) if entry.name == name_of(build))
    return next((environment for environment in found if environment.python.exists()), None)


def install(build: Build, home: Path, report: Report, variables: Mapping[str, str] | None = None) -> Environment:
    """Make the environment of `build` under the data directory `home`, in place of one that is there already.

    `variables` are what the toolchain needs in the environment of a compilation. Blocks for minutes. Raises `Conflict`
    while another installation runs or a worker uses the environment, `InsufficientStorage`, and `InstallFailed` with
    pip's reason or that of the check at the end; then nothing has changed.
    """
    root = private_directory(engines_directory(private_directory(home)))
    target = root / name_of(build)
    with _only_installation(root):
        refuse_used(target)
        with scratch(private_directory(root / SCRATCH)) as area:
            require_space(area.path, build.needed_bytes)
            report(InstallProgress("checking", build.distribution, total=build.needed_bytes, free=free_bytes(root)))
            folder = area.path / "environment"
            venv.EnvBuilder(symlinks=True).create(folder)
            log = private_directory(home / "logs") / f"install-{build.engine}.log"
            log.write_text("", encoding="utf-8")
            pip = Pip(interpreter(folder), area.path, log, area.lock, {**(variables or {}), **build.environment})
            with _explained(build, log):
                for step in build.steps:
                    _take(build, step, pip, report)
                if build.unwanted:
                    report(InstallProgress("removing", ", ".join(build.unwanted)))
                    pip.uninstall(build.unwanted, report)
                report(InstallProgress("verifying", build.distribution))
                verification.check(build, folder, _PYTHON)
            _finish(build, folder, target)
            if target.exists():
                target.rename(area.path / "former")
            folder.rename(target)
    return next(environment for environment in environments(home) if environment.folder == target)


def refuse_used(folder: Path) -> None:
    """Raises `Conflict` while a process of this user runs in the environment in `folder`."""
    if processes := users(folder):
        raise Conflict(
            f"`{folder.name}` is in use by process {processes[0]}",
            code="engine_in_use",
            hint="`llmserve stop` with the name of its model unloads it",
        )


@contextmanager
def _only_installation(root: Path) -> Iterator[None]:
    running = Conflict("another installation is running", code="installing", hint="wait until it is done")
    lock = take_lock(root / _LOCK, running)
    try:
        yield
    finally:
        os.close(lock)


def _take(build: Build, step: Step, pip: Pip, report: Report) -> None:
    """Run pip for one step: as the user configured it, and then with the step's index too. Raises `PipFailed`."""
    arguments = list(step.requirements)
    if build.from_source:
        # A wheel that pip built for another machine or with other flags must not be taken for this one.
        arguments += ["--no-binary", build.distribution, "--no-cache-dir", "--verbose"]
    else:
        arguments += ["--only-binary", ":all:"]
    if not build.with_dependencies:
        arguments.append("--no-deps")
    with _pins(build) as pins:
        if pins is not None:
            arguments += ["--constraint", str(pins)]
        try:
            pip.install(arguments, report)
        except PipFailed as failure:
            if step.index is None or failure.not_found is None:
                raise
            pip.install([*arguments, "--extra-index-url", step.index], report)


@contextmanager
def _pins(build: Build) -> Iterator[Path | None]:
    if build.pins is None:
        yield None
        return
    with resources.as_file(resources.files(__package__) / "pins" / build.pins) as path:
        yield path


@contextmanager
def _explained(build: Build, log: Path) -> Iterator[None]:
    """Turns what goes wrong into the error tree, in words for who does not know pip."""
    title = f"{build.distribution} {build.version}"
    try:
        yield
    except ProbeFailed as failure:
        raise InstallFailed(f"{title} was installed and does not work: {failure}", hint=f"see {log}") from failure
    except PipFailed as failure:
        if failure.no_room:
            raise InsufficientStorage(
                f"the disk became full while {title} was installed", hint=f"free {human_bytes(build.needed_bytes)}"
            ) from failure
        if failure.not_found is not None:
            raise InstallFailed(
                f"{title} cannot be installed: no package index has {failure.not_found} for Python {_PYTHON} here"
                + (", and one of them did not answer" if failure.unreachable else ""),
                hint="`pip config list` shows which indexes are asked; see docs/engines.md for what they must have",
            ) from failure
        hint = how_to_renew(str(failure)) or f"see {log}"
        raise InstallFailed(f"{title} cannot be installed: {failure}", hint=hint) from failure


def _finish(build: Build, folder: Path, target: Path) -> None:
    """Make the environment in `folder` ready for its place, and write its record last."""
    _point_scripts(folder, target)
    packages = sum(1 for _ in site_packages(folder, _PYTHON).glob("*.dist-info"))
    record = Record(
        engine=build.engine,
        distribution=build.distribution,
        version=build.version,
        device=build.device,
        python=_PYTHON,
        installed_at=now(),
        size_bytes=_size_bytes(folder),
        packages=packages,
    )
    (folder / RECORD).write_text(to_json(record, indent=2), encoding="utf-8")


def _point_scripts(folder: Path, target: Path) -> None:
    """Scripts name their interpreter by its path: name the one that will be."""
    old, new = os.fsencode(folder), os.fsencode(target)
    for path in [*(folder / "bin").iterdir(), folder / "pyvenv.cfg"]:
        if not path.is_file() or path.is_symlink():
            continue
        content = path.read_bytes()
        # A program's bytes must stay where they are; only text may change its length.
        if old in content and b"\0" not in content:
            path.write_bytes(content.replace(old, new))


def _size_bytes(folder: Path) -> int:
    return sum((Path(place) / name).lstat().st_size for place, _, names in os.walk(folder) for name in names)


def remove(environment: Environment) -> int:
    """Remove an environment; returns the bytes freed. Raises `Conflict` while a worker uses it."""
    root = environment.folder.parent
    with _only_installation(root):
        refuse_used(environment.folder)
        with scratch(private_directory(root / SCRATCH)) as area:
            # Its name goes first: what an interruption leaves is no environment.
            environment.folder.rename(area.path / "removed")
            shutil.rmtree(area.path / "removed", ignore_errors=True)
    return environment.record.size_bytes
