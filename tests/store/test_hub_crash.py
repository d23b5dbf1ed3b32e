"""Pulls from the Hub that are killed, go on elsewhere, or are asked for by many at once."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmserve.errors import InvalidModel
from llmserve.store import transfer
from llmserve.store.catalog import Catalog
from llmserve.store.progress import PullProgress
from llmserve.store.store import Store
from tests.fake_hub import FakeHub

ROOT = Path(__file__).parents[2]
NAME = "hf:owner/model-GGUF"


@pytest.fixture
def model_hub(hub: FakeHub, tiny_bytes: bytes) -> FakeHub:
    hub.commit("owner/model-GGUF", {"tiny.gguf": tiny_bytes})
    return hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub"


@pytest.fixture
def store(private_home: Path) -> Store:
    return Store(private_home, catalog=Catalog())


def start(home: Path, cache: Path, hub: FakeHub, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.store.hub_puller", str(home), str(cache), hub.url, NAME, *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=100)
    return output.split()


def check_nothing_wrong_is_visible(store: Store, cache: Path) -> None:
    for blob in cache.glob("models--*/blobs/*"):
        if not blob.name.endswith(".incomplete"):
            assert blob.name == hashlib.sha256(blob.read_bytes()).hexdigest()
    assert store.damaged() == ()


def test_a_pull_killed_at_any_point_leaves_the_old_state_or_the_new(
    store: Store, model_hub: FakeHub, private_home: Path, cache: Path, tiny_sha256: str
) -> None:
    installed = []
    for operation in range(1, 200, 6):
        process = start(private_home, cache, model_hub, "--die-at", str(operation))
        finish(process)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        check_nothing_wrong_is_visible(store, cache)
        installed.append(len(store.list()))
        # Whoever comes next goes on as if nothing had been: no lock is stale.
        assert store.pull(NAME).sha256 == tiny_sha256
        store.remove(NAME)
    else:
        pytest.fail("the pull never finished")
    assert 0 in installed


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.7, 0.9999])
def test_a_killed_download_goes_on_where_it_stopped_in_another_process(
    store: Store,
    model_hub: FakeHub,
    private_home: Path,
    cache: Path,
    tiny_bytes: bytes,
    share: float,
) -> None:
    sent = int(len(tiny_bytes) * share)
    model_hub.hold_after = sent
    process = start(private_home, cache, model_hub)
    assert model_hub.holding.wait(60)
    partial = None
    while partial is None or partial.stat().st_size < sent:
        partial = next(cache.glob("models--*/blobs/*.incomplete"), None)
    process.kill()
    finish(process)
    model_hub.go_on.set()
    assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes
    assert model_hub.downloads()[-1].headers["range"] == f"bytes={sent}-"
    assert not partial.exists()


def test_a_partial_file_that_is_wrong_is_fetched_anew(
    store: Store, model_hub: FakeHub, cache: Path, tiny_bytes: bytes, tiny_sha256: str
) -> None:
    blobs = cache / "models--owner--model-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{tiny_sha256}.llmserve.incomplete").write_bytes(b"x" * 1000)
    assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes
    assert ["range" in request.headers for request in model_hub.downloads()] == [True, False]


def test_a_partial_file_that_is_too_long_is_fetched_anew(
    store: Store, model_hub: FakeHub, cache: Path, tiny_bytes: bytes, tiny_sha256: str
) -> None:
    blobs = cache / "models--owner--model-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{tiny_sha256}.llmserve.incomplete").write_bytes(bytes(len(tiny_bytes) + 1))
    assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes


def test_fifty_askers_in_two_processes_download_once(
    store: Store, model_hub: FakeHub, private_home: Path, cache: Path, tiny_sha256: str
) -> None:
    processes = [start(private_home, cache, model_hub, "--threads", "25") for _ in range(2)]
    answers = [answer for process in processes for answer in finish(process)]
    assert answers == [tiny_sha256] * 50
    assert len(model_hub.downloads()) == 1


def test_who_waits_finishes_what_a_killed_process_began(
    store: Store, model_hub: FakeHub, private_home: Path, cache: Path, tiny_bytes: bytes, tiny_sha256: str
) -> None:
    sent = model_hub.hold_after = len(tiny_bytes) // 2
    first = start(private_home, cache, model_hub)
    assert model_hub.holding.wait(60)
    partial = None
    while partial is None or partial.stat().st_size < sent:
        partial = next(cache.glob("models--*/blobs/*.incomplete"), None)

    def kill_the_first(progress: PullProgress) -> None:
        if progress.stage == "waiting":
            first.kill()

    assert store.pull(NAME, kill_the_first).sha256 == tiny_sha256
    finish(first)
    model_hub.go_on.set()
    assert [request.headers.get("range") for request in model_hub.downloads()] == [None, f"bytes={sent}-"]


def test_who_waits_for_another_process_is_told(
    store: Store, model_hub: FakeHub, private_home: Path, cache: Path, tiny_sha256: str
) -> None:
    model_hub.hold_after = 1000
    process = start(private_home, cache, model_hub)
    assert model_hub.holding.wait(60)
    seen: list[str] = []

    def tell(progress: PullProgress) -> None:
        seen.append(progress.stage)
        if progress.stage == "waiting":
            model_hub.go_on.set()

    assert store.pull(NAME, tell).sha256 == tiny_sha256
    assert finish(process) == [tiny_sha256]
    assert "waiting" in seen
    assert "downloading" not in seen


def test_an_asker_that_leaves_stops_the_download_and_keeps_what_came(
    store: Store, model_hub: FakeHub, cache: Path, tiny_bytes: bytes
) -> None:
    model_hub.hold_after = len(tiny_bytes) // 2

    def leave(progress: PullProgress) -> None:
        if progress.stage == "downloading" and progress.completed:
            model_hub.go_on.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull(NAME, leave)
    assert store.list() == ()
    (partial,) = cache.glob("models--*/blobs/*.incomplete")
    assert partial.stat().st_size >= len(tiny_bytes) // 2
    assert store.pull(NAME) == store.find(NAME)


def test_who_leaves_does_not_wait_for_a_server_that_says_nothing(
    store: Store, model_hub: FakeHub, cache: Path, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_TIMEOUT_SECONDS", 60.0)
    model_hub.hold_after = len(tiny_bytes) // 2

    def leave(progress: PullProgress) -> None:
        if progress.stage == "downloading" and progress.completed:
            raise KeyboardInterrupt

    try:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            store.pull(NAME, leave)
        assert time.monotonic() - began < 30
    finally:
        model_hub.go_on.set()
    assert store.pull(NAME) == store.find(NAME)


def test_offline_serves_what_the_cache_has(
    store: Store, model_hub: FakeHub, private_home: Path, tmp_path: Path
) -> None:
    from llmserve.store.options import PullOptions

    first = store.pull(NAME)
    asked = len(model_hub.requests)
    other = Store(tmp_path / "other", catalog=Catalog())
    model = other.pull(NAME, None, PullOptions(offline=True))
    assert (model.path, model.sha256, model.source) == (first.path, first.sha256, first.source)
    assert len(model_hub.requests) == asked
    assert other.remove(NAME) == 0


def test_a_damaged_cache_is_not_served_offline(store: Store, model_hub: FakeHub, tmp_path: Path) -> None:
    from llmserve.errors import PullFailed
    from llmserve.store.options import PullOptions

    path = Path(store.pull(NAME).path).resolve()
    path.write_bytes(b"GGUF" + path.read_bytes()[4:-1] + b"x")
    with pytest.raises((PullFailed, InvalidModel)):
        Store(tmp_path / "other", catalog=Catalog()).pull(NAME, None, PullOptions(offline=True))
