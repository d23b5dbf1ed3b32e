"""Commands whose process is killed, or whose disk fails, at each system call that changes a file (see `faults.c`).

Afterwards nothing that is visible is wrong, other models are found and verified, and the same command goes on from
there. `scripts/nightly` runs more of it: every command at every call, 1,000 random kills, each command a program of its
own instead of a fork.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmserve.store.adoption import adopt
from llmserve.store.blobs import is_sha256
from llmserve.store.bundles import export_models
from llmserve.store.catalog import Catalog
from llmserve.store.store import Store
from llmserve.store.usage import prune
from llmserve.store.verification import verify
from tests.fake_hub import FakeHub
from tests.store.conftest import leftovers
from tests.store.forks import Commands, Ended, build_faults, forked_commands
from tests.store.raw_gguf import RawTensor, sound_model
from tests.tiny_gguf import write_tiny_model

NAME = "hf:owner/model-GGUF"
REPOSITORY = "owner/model-GGUF"
NIGHTLY = "LLMSERVE_TEST_NIGHTLY" in os.environ
KILLS = 1000 if NIGHTLY else 100
CHUNK_BYTES = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = build_faults(tmp_path_factory.mktemp("faults"))
    if library is None:
        pytest.skip("system calls are made to fail by a C library, and only on Linux with a compiler")
    return library


class World:
    """A data directory and a Hugging Face cache with one model that must outlive everything, and a hub with another."""

    def __init__(self, home: Path, hub: FakeHub, commands: Commands, kept: Path) -> None:
        self.hub = hub
        self.commands = commands
        self.cache = home.parent / "hf" / "hub"
        self.home = home
        self.store = Store(home, catalog=Catalog())
        self.kept = self.store.pull("hf:owner/kept")
        self.own = adopt(self.store, kept)
        self._manifests = set(home.glob("manifests/*/*.json"))

    @property
    def partial(self) -> Path | None:
        return next(self.cache.glob("models--owner--model-GGUF/blobs/*.incomplete"), None)

    def forget(self) -> None:
        """As if the model had never been asked for."""
        shutil.rmtree(self.cache / "models--owner--model-GGUF", ignore_errors=True)
        shutil.rmtree(self.cache / ".locks", ignore_errors=True)
        for folder in ("locks", "scratch", "blobs", "partial"):
            shutil.rmtree(self.home / folder, ignore_errors=True)
        for manifest in self.home.glob("manifests/*/*.json"):
            if manifest not in self._manifests:
                manifest.unlink()

    def check(self, but: str | None = None) -> None:
        """What holds at every moment, for whoever looks at the disk; the model `but` may be half removed."""
        for blob in (*self.home.glob("blobs/*"), *self.cache.glob("models--*/blobs/*")):
            if not blob.name.endswith(".incomplete"):
                assert blob.name.removeprefix("sha256-") == hashlib.sha256(blob.read_bytes()).hexdigest()
        assert [model.name for model in self.store.damaged()] in ([], [but])
        for model in (self.kept, self.own):
            assert self.store.find(model.name) == model
            assert verify(self.store, model.name).problem is None

    def check_clean(self) -> None:
        """Nothing is left of what was under way, but for what the next one removes."""
        prune(self.store)
        assert leftovers(self.home) == []
        assert self.partial is None
        left = [path for path in self.cache.rglob(".*") if path.name != ".locks" and path.suffix in {".link", ".ref"}]
        assert left == []


def model_of(size_bytes: int, chance: random.Random) -> bytes:
    """A sound model file whose weights are random, so that no two places in it look alike."""
    content = sound_model(tensors=[RawTensor("blk.0.ffn_gate.weight", (8, size_bytes // 32))]).build()
    return content[:-size_bytes] + chance.randbytes(size_bytes)


@pytest.fixture
def world(hub: FakeHub, private_home: Path, tmp_path: Path, faults: Path) -> Iterator[World]:
    hub.commit("owner/kept", {"kept.gguf": write_tiny_model(tmp_path / "kept.gguf", seed=3, layers=1).read_bytes()})
    hub.commit(REPOSITORY, {"tiny.gguf": model_of(200_000, random.Random(1))})
    cache = tmp_path / "hf" / "hub"
    (tmp_path / "scratch").mkdir()
    with forked_commands(private_home, cache, hub.url, faults, tmp_path / "scratch", anew=NIGHTLY) as commands:
        yield World(private_home, hub, commands, tmp_path / "kept.gguf")


def goes_on(world: World) -> None:
    """Pull what an earlier process began: from where it stopped, with one request."""
    here = world.partial.stat().st_size if world.partial else 0
    before = len(world.hub.downloads())
    assert world.store.pull(NAME) == world.store.find(NAME)
    asked = [request.headers.get("range") for request in world.hub.downloads()[before:]]
    content = world.hub.repositories[REPOSITORY].commits[world.hub.repositories[REPOSITORY].branches["main"]]
    if 0 < here < len(content["tiny.gguf"]):
        assert asked == [f"bytes={here}-"]
    assert len(asked) <= 1
    world.check()
    world.check_clean()


def test_a_pull_killed_at_any_call_leaves_the_old_state_or_the_new(world: World) -> None:
    calls = world.commands.calls("pull", NAME)
    assert {"open", "write", "fsync", "rename", "symlink", "flock", "mkdir"} <= set(calls)
    visible = []
    # A pull takes fewer or more calls from time to time, as the network brings larger or smaller pieces.
    for at in itertools.count(1):
        world.forget()
        ended = world.commands.failing("pull", NAME, mode="kill", at=at)
        assert ended.status == -signal.SIGKILL or (ended.status == 0 and at > len(calls) // 2)
        world.check()
        visible.append(any(model.name == NAME for model in world.store.list()))
        goes_on(world)
        if ended.status == 0 and at > len(calls):
            break
    assert (visible[0], visible[-1]) == (False, True)


def test_pulls_killed_at_random_one_after_the_other(world: World) -> None:
    """Each goes on from what the one before left, until one gets through; then the model goes, and all begins anew."""
    chance = random.Random(20)
    world.hub.commit(REPOSITORY, {"tiny.gguf": model_of(1_500_000, chance)})
    calls = len(world.commands.calls("pull", NAME))
    world.forget()
    completed = killed = 0
    while killed < KILLS:
        here = world.partial.stat().st_size if world.partial else 0
        before, sent = len(world.hub.downloads()), world.hub.sent_bytes
        ended = world.commands.failing("pull", NAME, mode="kill", at=chance.randint(1, calls))
        asked = [request.headers.get("range") for request in world.hub.downloads()[before:]]
        assert asked in ([], [f"bytes={here}-" if here else None])
        kept = (world.partial.stat().st_size if world.partial else 0) - here
        if kept >= 0:
            assert world.hub.sent_bytes - sent - kept <= CHUNK_BYTES
        world.check()
        if ended.status == 0:
            completed += 1
            world.check_clean()
            world.forget()
        else:
            assert ended.status == -signal.SIGKILL
            killed += 1
    assert completed > 0
    goes_on(world)


def check_said(ended: Ended, code: int) -> None:
    """A failure is told in a sentence, and a success is one."""
    assert ended.status in {0, 1, 71}, ended
    assert "Traceback" not in ended.said
    if ended.status:
        assert len(re.findall(r"^error: ", ended.said, re.MULTILINE)) == 1
        if code == errno.ENOSPC:
            assert "no room" in ended.said or "No space" in ended.said
        assert "network" not in ended.said, "it is the disk that fails"


FAILURES = [("once", errno.ENOSPC), ("once", errno.EIO), ("lasting", errno.ENOSPC), ("lasting", errno.EIO)]


@pytest.mark.parametrize(("mode", "code"), FAILURES, ids=lambda value: errno.errorcode.get(value, value))
def test_a_disk_that_fails_a_pull_at_any_call(world: World, mode: str, code: int) -> None:
    calls = len(world.commands.calls("pull", NAME))
    failed = 0
    for at in range(1, calls + 1, 1 if NIGHTLY else 3):
        world.forget()
        ended = world.commands.failing("pull", NAME, mode=mode, at=at, code=code)
        check_said(ended, code)
        failed += ended.status != 0
        world.check()
        goes_on(world)
    assert failed > 5


def bundle_of(world: World, path: Path) -> str:
    source = Store(path.parent / "source", catalog=Catalog())
    model = adopt(source, write_tiny_model(path.parent / "carried.gguf", seed=5, layers=1))
    export_models(source, (model.name,), path)
    return model.name


@pytest.mark.parametrize(
    ("mode", "code"), [("kill", 0), *FAILURES], ids=lambda value: errno.errorcode.get(value, value)
)
def test_an_import_that_fails_at_any_call(world: World, tmp_path: Path, mode: str, code: int) -> None:
    """A bundle is what brings blobs into the store itself."""
    name = bundle_of(world, tmp_path / "bundle.tar")
    argv = ("import", str(tmp_path / "bundle.tar"))
    calls = len(world.commands.calls(*argv))
    for at in range(1, calls + 1, 1 if NIGHTLY else 3):
        world.forget()
        ended = world.commands.failing(*argv, mode=mode, at=at, code=code)
        if mode == "kill":
            assert ended.status == -signal.SIGKILL
        else:
            check_said(ended, code)
        world.check()
        again = world.commands.run(*argv)
        assert again.status == 0, again
        assert verify(world.store, name).problem is None
        world.check()
        world.check_clean()
        assert all(is_sha256(blob.name.removeprefix("sha256-")) for blob in world.home.glob("blobs/*"))


@pytest.mark.parametrize(("mode", "code"), [("kill", 0), ("once", errno.EIO)], ids=["kill", "EIO"])
def test_a_removal_that_fails_at_any_call(world: World, mode: str, code: int) -> None:
    world.store.pull(NAME)
    calls = len(world.commands.calls("rm", NAME))
    assert calls > 5
    for at in range(1, calls + 1):
        world.forget()
        world.store.pull(NAME)
        ended = world.commands.failing("rm", NAME, mode=mode, at=at, code=code)
        if mode == "kill":
            assert ended.status == -signal.SIGKILL
        else:
            check_said(ended, code)
        world.check(but=NAME)
    world.forget()
    assert world.store.pull(NAME) == world.store.find(NAME)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_what_was_under_way_when_a_pull_died_is_at_most_one_chunk(world: World, share: float) -> None:
    """Killed from outside, at no call in particular, with a model of several chunks."""
    content = model_of(3 * CHUNK_BYTES, random.Random(2))
    world.hub.commit(REPOSITORY, {"tiny.gguf": content})
    world.hub.sent_bytes = 0
    with world.commands.started("pull", NAME) as command:
        world.hub.on_sent = lambda sent: command.kill() if sent > share * len(content) else None
    world.hub.on_sent = None
    assert command.returncode == -signal.SIGKILL
    here = world.partial.stat().st_size if world.partial else 0
    assert world.hub.sent_bytes - here <= CHUNK_BYTES
    world.check()
    goes_on(world)
