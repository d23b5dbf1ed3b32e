"""Where sockets live."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from llmserve.errors import StartupFailed
from llmserve.fleet.sockets import SocketDirectory


def test_paths_are_new_private_and_short(runtime_directory: Path) -> None:
    sockets = SocketDirectory(runtime_directory / "workers")
    first, second = sockets.new_path(), sockets.new_path()
    assert first != second
    assert first.parent == second.parent
    assert first.parent.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(first))
    sockets.close()
    assert not first.parent.exists()
    sockets.close()
    with pytest.raises(StartupFailed):
        sockets.new_path()


def test_nothing_is_made_before_it_is_needed(runtime_directory: Path) -> None:
    SocketDirectory(runtime_directory / "workers").close()
    assert list(runtime_directory.iterdir()) == []


def test_the_directory_of_a_living_gateway_stays(runtime_directory: Path) -> None:
    first, second = (SocketDirectory(runtime_directory / "workers") for _ in range(2))
    path = first.new_path()
    second.new_path()
    assert path.parent.exists()
    for sockets in (first, second):
        sockets.close()


def test_what_a_dead_gateway_left_goes_and_links_are_not_followed(runtime_directory: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    base = runtime_directory / "workers"
    dead = base / "123-dead"
    dead.mkdir(parents=True, mode=0o700)
    (dead / "1.sock").touch()
    (base / "link").symlink_to(precious)
    sockets = SocketDirectory(base)
    sockets.new_path()
    assert not dead.exists()
    assert (precious / "file").exists()
    sockets.close()


def test_a_base_too_long_for_a_socket_is_replaced(
    runtime_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(runtime_directory))
    sockets = SocketDirectory(tmp_path / ("x" * 120))
    path = sockets.new_path()
    assert path.is_relative_to(runtime_directory)
    assert len(os.fsencode(path)) <= 103
    sockets.close()


def test_a_base_that_others_may_write_to_is_refused(runtime_directory: Path) -> None:
    base = runtime_directory / "workers"
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(StartupFailed, match="not private") as caught:
        SocketDirectory(base).new_path()
    assert caught.value.hint is not None


def test_a_base_that_is_a_link_is_refused(runtime_directory: Path, tmp_path: Path) -> None:
    (runtime_directory / "workers").symlink_to(tmp_path)
    with pytest.raises(StartupFailed, match="not private"):
        SocketDirectory(runtime_directory / "workers").new_path()


def test_a_base_that_cannot_be_made_is_refused_without_its_path(runtime_directory: Path) -> None:
    (runtime_directory / "file").touch()
    with pytest.raises(StartupFailed) as caught:
        SocketDirectory(runtime_directory / "file" / "workers").new_path()
    assert str(runtime_directory) not in caught.value.message
