"""A gateway whose workers are fake, in front of a real store; runs in llmserve's own environment, as a process:

    python -P tests/clients/fake_gateway.py PORT FOLDER

The store holds the models `tiny:local` and `embedder:local`, whose files are written to the folder; the variable
FAKE_WORKER is the load script of their workers. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from llmserve.api import listener
from llmserve.api.gateway import Gateway
from llmserve.api.logs import log_to_stderr
from llmserve.api.server import make_server
from llmserve.engines.command import Command
from llmserve.fleet.fleet import Fleet
from llmserve.fleet.launcher import Launcher
from llmserve.settings import load_settings
from llmserve.store.serving import serving_store
from llmserve.types import EnginePlan, InstalledModel
from tests.bert import random_bert, write_bert
from tests.fake_worker import fake_command
from tests.tiny_gguf import write_tiny_model


def exit_at_end_of_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


async def main(port: int, folder: Path) -> None:
    settings = load_settings({"port": port})
    store = serving_store(settings)
    for path in (write_tiny_model(folder / "tiny.gguf"), write_bert(folder / "embedder.gguf", random_bert())):
        store.pull(str(path))
    environment = {"FAKE_WORKER": os.environ.get("FAKE_WORKER", "{}")}

    def launch(plan: EnginePlan, model: InstalledModel, socket: Path) -> Command:
        return replace(fake_command(plan, model, socket), environment=environment)

    fleet = Fleet(store, settings, launcher=Launcher(settings, launch))
    log_to_stderr()
    with listener.bound(settings) as sock:
        await make_server(Gateway(fleet, store, settings)).serve(sockets=[sock])


if __name__ == "__main__":
    threading.Thread(target=exit_at_end_of_stdin, daemon=True).start()
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
