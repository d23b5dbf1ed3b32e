"""The command line in a process of its own, with the fake store: `python -m tests.cli.driver ARGUMENTS`.

With `LLMSERVE_TEST_FIFO` a private server is `fake_serve.py`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from llmserve.cli import models, private
from llmserve.cli.main import main
from tests.cli.fakes import FakeStore, installed


def fake_serve_command(socket: Path, fifo: str, behaviour: str = "obey") -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("fake_serve.py")), str(socket), fifo, behaviour]


if __name__ == "__main__":
    store = FakeStore(models={"tiny:1b": installed()})
    models.open_store = lambda settings: store  # type: ignore[assignment,return-value]
    if fifo := os.environ.get("LLMSERVE_TEST_FIFO"):
        private.serve_command = lambda socket: fake_serve_command(socket, fifo)
    sys.exit(main())
