"""Who uses a model right now: the engines' processes of this user, whichever server started them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

# The argument before the model's path in the command lines of the engines: `llmserve.llama --model`, `vllm serve`.
_BEFORE_PATH = frozenset({"--model", "serve"})


def processes_using(path: Path, name: str | None = None) -> tuple[int, ...]:
    """The ids of the processes that serve the model at `path`, those that call it `name` where one is given.

    They tell by their command lines, so nobody is asked. A process that is only starting may be missed; it keeps what
    it has opened, whatever is removed.
    """
    return tuple(
        process
        for process, served, arguments in _serving()
        if served == str(path) and (name is None or name in arguments)
    )


def paths_in_use() -> frozenset[str]:
    """The paths of all models that a process serves."""
    return frozenset(served for _, served, _ in _serving())


def _serving() -> Iterator[tuple[int, str, list[str]]]:
    """The processes of engines, each with the path of its model and all its arguments."""
    import psutil  # type: ignore[import-untyped]  # shipped without types

    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        for before, argument in pairwise(arguments):
            if before in _BEFORE_PATH:
                yield process.pid, argument, arguments
