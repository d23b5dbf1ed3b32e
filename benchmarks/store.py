"""How fast the store is: `python -m benchmarks.store [--directory DIR]`; takes under a minute and 1 GB of disk.

verify   the rate of `llmserve verify`'s hashing against that of `sha256sum`, turn by turn on one file
list     200 models, in process and as a command, beyond what the interpreter takes to start
show     a file of 20 GB of which only the header is on the disk
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llmserve.store.adoption import adopt
from llmserve.store.catalog import Catalog
from llmserve.store.copies import copy
from llmserve.store.files import sha256_of
from llmserve.store.progress import ignore_progress
from llmserve.store.store import Store
from tests.store.raw_gguf import RawTensor, sound_model
from tests.tiny_gguf import write_tiny_model

HASHED_BYTES = 512 * 1024 * 1024
SPARSE_BYTES = 20 * 10**9
MODELS = 200
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--directory", type=Path, help="Where to put the files (default: the temporary directory).")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().directory) as directory:
        measure_verify(Path(directory))
        measure_list(Path(directory))
        measure_show(Path(directory))


def measure_verify(directory: Path) -> None:
    path = directory / "hashed"
    with path.open("wb") as file:
        for _ in range(HASHED_BYTES // 2**20):
            file.write(os.urandom(2**20))
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(lambda: sha256_of(path, ignore_progress)))
        theirs.append(seconds(lambda: run("sha256sum", str(path))))
    path.unlink()
    our_rate, their_rate = (HASHED_BYTES / 1e6 / statistics.median(times) for times in (ours, theirs))
    print(f"verify {our_rate:.0f} MB/s, sha256sum {their_rate:.0f} MB/s: {our_rate / their_rate:.2f}x")


def measure_list(directory: Path) -> None:
    home = directory / "home"
    store = Store(home, catalog=Catalog())
    first = adopt(store, write_tiny_model(directory / "tiny.gguf", layers=1))
    for number in range(MODELS - 1):
        copy(store, first.name, f"copy:{number}")
    in_process = median_of(lambda: Store(home).list())
    environment = os.environ | {"LLMSERVE_HOME": str(home)}
    command = median_of(lambda: run(sys.executable, "-P", "-m", "llmserve", "list", environment=environment))
    interpreter = median_of(lambda: run(sys.executable, "-P", "-c", ""))
    print(
        f"list of {MODELS} models: {in_process * 1e3:.0f} ms in process; the command {command * 1e3:.0f} ms, "
        f"{(command - interpreter) * 1e3:.0f} ms beyond the interpreter's {interpreter * 1e3:.0f} ms"
    )


def measure_show(directory: Path) -> None:
    path = directory / "sparse.gguf"
    rows = SPARSE_BYTES // 32
    weights = RawTensor("blk.0.ffn_gate.weight", (8, rows), data_bytes=0)
    path.write_bytes(sound_model(tensors=[weights]).build())
    os.truncate(path, path.stat().st_size + rows * 32)
    store = Store(directory / "home", catalog=Catalog())
    in_process = median_of(lambda: store.inspect(str(path)))
    command = median_of(lambda: run(sys.executable, "-P", "-m", "llmserve", "show", str(path)))
    size_gb = path.stat().st_size / 1e9
    print(f"show of {size_gb:.0f} GB: {in_process * 1e3:.1f} ms in process, the command {command * 1e3:.0f} ms")


def run(*argv: str, environment: dict[str, str] | None = None) -> None:
    subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def median_of(action: Callable[[], object]) -> float:
    return statistics.median(seconds(action) for _ in range(ROUNDS))


if __name__ == "__main__":
    main()
