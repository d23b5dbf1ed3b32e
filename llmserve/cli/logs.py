"""`llmserve logs`: what the models' workers have written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmserve.cli.model_names import installed_models
from llmserve.cli.terminal import print_answer, printable, talk
from llmserve.errors import ModelNotFound, NotFound, StartupFailed

if TYPE_CHECKING:
    from llmserve.cli.log_file import LogFile
    from llmserve.settings import Settings

_POLL_SECONDS = 0.25


@click.command("logs")
@click.argument("model", required=False, shell_complete=installed_models)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, over restarts too.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True, metavar="N", help="The last N lines."
)
def command(model: str | None, follow: bool, lines: int) -> None:
    """Show the log of MODEL's workers, or of all models.

    It holds the latest run and the one before. The server's own log is what `llmserve serve` writes to its standard
    error.
    """
    from llmserve.settings import home_directory, load_settings

    settings = load_settings()
    shown = _Shown(home_directory(settings) / "logs", None if model is None else _name(settings, model))
    with closing(shown):
        shown.open_new(lines)
        if not shown.files:
            raise _no_log(shown)
        if not shown.started:
            talk("nothing is written there yet")
        while follow:
            time.sleep(_POLL_SECONDS)
            shown.go_on()


class _Shown:
    """The logs in `directory` that are shown: that of the model `only`, or of all (None)."""

    def __init__(self, directory: Path, only: str | None) -> None:
        self.directory = directory
        self.only = only
        self.files: dict[str, LogFile] = {}
        self.started = False
        self._latest = only

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def go_on(self) -> None:
        """Show what was written meanwhile."""
        for name, file in self.files.items():
            self.write(name, file.more())
        self.open_new(0)

    def open_new(self, lines: int) -> None:
        """Open the logs that are there by now, and show the last `lines` of each, all of one that came later."""
        from llmserve.cli.log_file import LogFile
        from llmserve.fleet.worker_log import WorkerLog

        later = bool(self.files)
        for name in [self.only] if self.only is not None else models_with_logs(self.directory):
            if name in self.files:
                continue
            path = WorkerLog(self.directory, name).path
            try:
                file = self.files[name] = LogFile(path, path.with_name(f"{path.name}.1"))
            except FileNotFoundError:
                continue
            except PermissionError as error:
                raise StartupFailed(f"cannot read {path}: {error.strerror}") from error
            self.write(name, file.more() if later else file.last(lines))

    def write(self, name: str, text: str) -> None:
        if not text:
            return
        if name != self._latest:
            gap = "\n" if self.started else ""
            print_answer(f"{gap}==> {printable(name)} <==\n")
            self._latest = name
        self.started = True
        print_answer(text)


def models_with_logs(directory: Path) -> Iterator[str]:
    """The names of the models whose workers have written, in order."""
    from urllib.parse import unquote

    for path in sorted(directory.glob("*:*.log")):
        yield unquote(path.name.removesuffix(".log"))


def _name(settings: Settings, text: str) -> str:
    """The full name of an installed model; logs of one that is gone have the name that it had."""
    from llmserve.cli.models import known_or_damaged, open_store

    try:
        return known_or_damaged(open_store(settings), text)
    except ModelNotFound:
        return text


def _no_log(shown: _Shown) -> NotFound:
    names = list(models_with_logs(shown.directory))
    hint = f"there are logs of {', '.join(names)}" if names else "a model's log begins when it is loaded"
    wanted = "any model" if shown.only is None else f"`{shown.only}`"
    return NotFound(f"there is no log of {wanted}", hint=hint)
