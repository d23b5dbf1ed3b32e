"""A process that pulls one model from a hub on loopback, and can be made to die on the way.

    python -m tests.store.hub_puller HOME CACHE ENDPOINT NAME [--die-at N] [--threads N]

It prints the model's SHA-256, once for each thread, or the name of the error. With --die-at it kills itself (SIGKILL)
at its N-th operation on a file under HOME or CACHE.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_OPERATIONS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.symlink", "os.chmod", "fcntl.flock"})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("endpoint")
    parser.add_argument("name")
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    # Read when the client is imported.
    os.environ |= {
        "HF_ENDPOINT": arguments.endpoint,
        "HF_HUB_CACHE": str(arguments.cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    import huggingface_hub.hf_api  # noqa: F401  # so that its own files are opened before anything is counted

    from llmserve.errors import LlmserveError
    from llmserve.store.catalog import Catalog
    from llmserve.store.store import Store

    store = Store(arguments.home, catalog=Catalog())
    if arguments.die_at:
        _die_at(arguments.die_at, (str(arguments.home), str(arguments.cache)))

    def pull(_: int) -> str:
        try:
            return store.pull(arguments.name).sha256
        except LlmserveError as error:
            return type(error).__name__

    with ThreadPoolExecutor(arguments.threads) as pool:
        for answer in pool.map(pull, range(arguments.threads)):
            print(answer, flush=True)


def _die_at(operation: int, roots: tuple[str, str]) -> None:
    counter = itertools.count(1)

    def hook(event: str, details: tuple[object, ...]) -> None:
        if event not in _OPERATIONS:
            return
        target = details[0]
        if (isinstance(target, int) or str(target).startswith(roots)) and next(counter) == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
