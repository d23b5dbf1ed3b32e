"""What a worker really holds of the RAM against what its plan says, for contexts and KV types.

    python -m benchmarks.memory MODEL.gguf

starts a worker for each, fills a whole context with one prompt, and compares the peak of its resident size: that of a
cache with its first streams, since one prompt wants no more. Exit code 1 where one is off by more than a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import get_args

from llmserve.engines import llama_cpp
from llmserve.engines.machine import probe
from llmserve.fleet.worker import Worker
from llmserve.fleet.worker_log import WorkerLog
from llmserve.hardware.surroundings import peak_resident_bytes
from llmserve.planning.measurements import expected_at_load
from llmserve.planning.plan import plan
from llmserve.settings import Settings
from llmserve.store.inspection import inspect_model
from llmserve.types import EnginePlan, InstalledModel, KvType

CONTEXTS = (1024, 2048, 4096, 8192)
MOST_OFF = 0.1


async def measure(path: Path, decided: EnginePlan, folder: Path) -> int:
    """The peak of the resident size of a worker that has filled one context. Raises `RuntimeError` if it cannot."""
    model = InstalledModel("model", (), "gguf", "", str(path), 0, "", "", 0.0)
    socket = folder / "worker.sock"
    worker = Worker("model", llama_cpp.command(decided, model, socket), socket, WorkerLog(folder, "model"))
    await worker.start()
    try:
        await worker.ready(120)
        # Every other token a number of its own: nothing of it is in the cache already.
        prompt = [100 + number % 1000 for number in range(decided.context - 16)]
        body = {"model": "model", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        response = await worker.client.post("/v1/completions", json=body)
        if response.status_code != 200 or worker.pid is None:
            raise RuntimeError(response.text)
        resident = peak_resident_bytes(worker.pid)
        if resident is None:
            raise RuntimeError("the system does not tell what a process holds")
        return resident
    finally:
        await worker.stop()
        await worker.client.aclose()


async def compare(path: Path, contexts: list[int], kv_types: list[KvType]) -> int:
    hardware, model = probe(), inspect_model(path)
    worst = 0.0
    print("context  kv type  estimated MiB  measured MiB    off")
    for context in contexts:
        for kv_type in kv_types:
            decided = plan(hardware, model, Settings(context=context, kv_type=kv_type, parallel=4, gpu_layers=0))
            ram = expected_at_load(decided)[0]
            estimated = ram.total - ram.saved_prefixes
            with tempfile.TemporaryDirectory(prefix="llm") as folder:
                measured = await measure(path, decided, Path(folder))
            off = estimated / measured - 1
            worst = max(worst, abs(off))
            print(
                f"{context:7}  {kv_type:7}  {estimated / 2**20:13.0f}  {measured / 2**20:12.0f}  {off:+5.1%}",
                flush=True,
            )
    return 0 if worst <= MOST_OFF else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--contexts", type=int, nargs="*", default=CONTEXTS)
    parser.add_argument("--kv-types", nargs="*", choices=get_args(KvType), default=get_args(KvType))
    asked = parser.parse_args()
    return asyncio.run(compare(asked.model.resolve(), asked.contexts, asked.kv_types))


if __name__ == "__main__":
    sys.exit(main())
