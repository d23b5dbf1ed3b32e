"""How soon an answer begins to a long prompt whose beginning was computed before: in the cache, after the model was
unloaded, and after the server was restarted; against one that was never seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import urllib.request
from pathlib import Path

from benchmarks.load import Load, chat, prompts
from benchmarks.servers import Server, llmserve

# About 4,000 tokens of the starter model.
LONG = Load(clients=1, requests=1, prompt_words=3250, output_tokens=8)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefixes", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="a .gguf file")
    parser.add_argument("--repetitions", type=int, default=3)
    asked = parser.parse_args()
    for model in asked.models:
        with tempfile.TemporaryDirectory(prefix="llmserve-bench-") as home:
            runs = [_measure(model, Path(home), repetition) for repetition in range(asked.repetitions)]
        print(f"\n{model.name}, time to the first token, medians of {asked.repetitions}")
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for name, seconds in medians.items():
            print(f"{name:<12}{seconds:>8.2f} s{seconds / medians['never seen']:>8.3f}", flush=True)


def _measure(model: Path, home: Path, repetition: int) -> dict[str, float]:
    (text,) = prompts(LONG, seed=repetition)
    seconds: dict[str, float] = {}

    def ask(server: Server, name: str) -> None:
        seconds[name] = asyncio.run(chat(LONG, server.port, server.model, f"{text} And {name}?")).ttft

    with llmserve(model, home, parallel=4, prefix_disk=True) as server:
        ask(server, "never seen")
        ask(server, "resident")
        _unload(server)
        ask(server, "unloaded")
    with llmserve(model, home, parallel=4, prefix_disk=True) as server:
        ask(server, "restarted")
    return seconds


def _unload(server: Server) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/admin/stop",
        data=json.dumps({"model": server.model}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - always http on loopback
        json.load(response)


if __name__ == "__main__":
    main()
