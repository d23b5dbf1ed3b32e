"""Models that take turns in a control group with room for fewer of them: all are answered, and nothing is killed.

    python -m benchmarks.swapping FIRST.gguf SECOND.gguf THIRD.gguf --limit-mib 950 --rounds 5

Needs root, to make the group (cgroup v1 or v2). Exit code 1 where an answer is missing, the kernel killed a process of
the group, or no model was swapped for another.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.servers import free_port, running

_CGROUPS = Path("/sys/fs/cgroup")
_V1 = _CGROUPS / "memory"


class Group:
    """A control group of this run's own, with a limit on memory and without swap."""

    def __init__(self, limit_bytes: int) -> None:
        self._v1 = _V1.is_dir()
        self.path = (_V1 if self._v1 else _CGROUPS) / f"llmserve-swapping-{os.getpid()}"
        self.path.mkdir()
        (self.path / ("memory.limit_in_bytes" if self._v1 else "memory.max")).write_text(str(limit_bytes))

    @property
    def peak_bytes(self) -> int:
        return int((self.path / ("memory.max_usage_in_bytes" if self._v1 else "memory.peak")).read_text())

    @property
    def resident_bytes(self) -> int:
        """Memory of processes alone, without the pages of files, which the kernel takes back when it likes."""
        return self._number("memory.stat", "total_rss" if self._v1 else "anon")

    @property
    def kills(self) -> int:
        return self._number("memory.oom_control" if self._v1 else "memory.events", "oom_kill")

    def _number(self, file: str, name: str) -> int:
        lines = (line.split() for line in (self.path / file).read_text().splitlines())
        return next(int(value) for key, value in lines if key == name)

    def remove(self) -> None:
        self.path.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--limit-mib", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--context", type=int, default=4096)
    arguments = parser.parse_args()
    group = Group(arguments.limit_mib * 2**20)
    try:
        with tempfile.TemporaryDirectory() as home:
            sys.exit(measure(group, Path(home), arguments))
    finally:
        group.remove()


def measure(group: Group, home: Path, arguments: argparse.Namespace) -> int:
    environment = {**os.environ, "LLMSERVE_HOME": str(home), "LLMSERVE_CONFIG": str(home / "none.toml")}
    llmserve = [sys.executable, "-P", "-m", "llmserve"]
    for model in arguments.models:
        subprocess.run([*llmserve, "pull", str(model)], env=environment, check=True, capture_output=True)
    listed = subprocess.run([*llmserve, "list", "--json"], env=environment, check=True, capture_output=True)
    names = [model["name"] for model in json.loads(listed.stdout)]
    port = free_port()
    # In the group from its first instruction.
    inside = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(group.path)]
    serve = [*llmserve, "serve", "--port", str(port), "--context", str(arguments.context), "--parallel", "2"]
    seconds, residents = [], [0]
    with running([*inside, *serve], environment, f"http://127.0.0.1:{port}/health", home / "server.log"):
        for name in names * arguments.rounds:
            started = time.perf_counter()
            answer(port, name)
            seconds.append(time.perf_counter() - started)
            residents.append(group.resident_bytes)
        loads, swaps = turnover(port)
    print(
        f"{len(seconds)} requests to {len(names)} models in {arguments.limit_mib} MiB: all answered, "
        f"in {min(seconds):.2f} to {max(seconds):.2f} s; {loads} loads, {swaps} swaps; resident at most "
        f"{max(residents) / 2**20:.0f} MiB, with files {group.peak_bytes / 2**20:.0f} MiB; {group.kills} kills"
    )
    return 0 if swaps and not group.kills else 1


def answer(port: int, model: str) -> None:
    """Raises `RuntimeError` for an answer that is not whole."""
    body = {"model": model, "messages": [{"role": "user", "content": "Count to ten."}], "max_tokens": 16}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:  # noqa: S310
        answered = json.load(response)
    if answered["model"] != model or not answered["choices"][0]["message"]["content"]:
        raise RuntimeError(f"{model} answered {answered}")


def turnover(port: int) -> tuple[int, int]:
    """Loads, and unloads that made room for another model."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        families = text_string_to_metric_families(response.read().decode())
        samples = [sample for family in families for sample in family.samples]
    loads = sum(sample.value for sample in samples if sample.name == "llmserve_model_loads_total")
    swaps = sum(
        sample.value
        for sample in samples
        if sample.name == "llmserve_model_unloads_total" and sample.labels["cause"] == "room"
    )
    return int(loads), int(swaps)


if __name__ == "__main__":
    main()
