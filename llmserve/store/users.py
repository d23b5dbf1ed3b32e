"""Who uses a model right now: the engines' processes of this user, whichever server started them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

# The argument before the model's path in the command lines of the engines: `llmserve.llama --model`, `vllm serve`.
_BEFORE_PATH = frozenset({"--model", "serve"})


def processes_using(path: Path) -> tuple[int, ...]:
    """The ids of the processes that serve the model at `path`. They tell by their command lines, so nobody is asked.

    A process that is only starting may be missed; it keeps what it has opened, whatever is removed.
    """
    import psutil  # type: ignore[import-untyped]  # shipped without types

    wanted = str(path)
    found = []
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if any(before in _BEFORE_PATH and argument == wanted for before, argument in pairwise(arguments)):
            found.append(process.pid)
    return tuple(found)
