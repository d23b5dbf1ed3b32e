"""The fixture `world`, which fails a test that leaves a process, a socket or a descriptor behind."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fleet.fakes import World, children, descriptors, set_others_aside, until


@pytest.fixture(autouse=True)
def only_own_children() -> None:
    """Other packages' tests keep servers of their own running for a whole run; they are not this test's."""
    set_others_aside()


@pytest.fixture
def runtime_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory of this test's own; pytest's own folders have paths too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="run-") as name:
        monkeypatch.setattr("llmserve.fleet.launcher.runtime_directory", lambda: Path(name))
        yield Path(name)


def left_in(runtime_directory: Path) -> list[Path]:
    return [path for path in runtime_directory.rglob("*") if path.name != "workers"]


@pytest.fixture
async def world(tmp_path: Path, runtime_directory: Path) -> AsyncIterator[World]:
    before = descriptors()
    world = World(tmp_path)
    world.store.add("alpha")
    yield world
    await world.close()
    await until(lambda: children() == [])
    assert left_in(runtime_directory) == []
    await until(lambda: descriptors() <= before)
