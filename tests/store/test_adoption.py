"""Models of the user's own are used where they lie, and what is no model is refused."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmserve.errors import InvalidModel
from llmserve.store.adoption import adopt
from llmserve.store.progress import PullProgress
from llmserve.store.store import Store
from tests.store.conftest import visible_files
from tests.tiny_gguf import write_tiny_model


def test_a_local_file_is_used_where_it_lies(
    store: Store, private_home: Path, tmp_path: Path, tiny_bytes: bytes
) -> None:
    path = tmp_path / "My Model.Q4_1.gguf"
    path.write_bytes(tiny_bytes)
    adopted = adopt(store, path)
    assert adopted.name == "my-model.q4_1:local"
    assert adopted.path == str(path)
    assert adopted.source == f"file:{path}"
    assert store.find("my-model.q4_1:local") == adopted
    assert store.pull(str(path)) == adopted
    assert not (private_home / "blobs").exists()


def test_adopting_again_reads_nothing(store: Store, tiny_model: Path) -> None:
    first = adopt(store, tiny_model)
    seen: list[PullProgress] = []
    assert adopt(store, tiny_model, seen.append) == first
    assert seen == []


def test_a_local_file_that_changed_is_refused_until_adopted_again(store: Store, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "mine.gguf")
    adopt(store, path)
    write_tiny_model(path, seed=1)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InvalidModel) as refused:
        store.find("mine:local")
    assert refused.value.hint == f"llmserve pull {path}"
    with pytest.raises(InvalidModel):
        store.pull("mine:local")
    adopted = adopt(store, path)
    assert adopted.name == "mine:local"
    assert adopted.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(store.list()) == 1


def test_two_files_of_one_name_get_two_names(store: Store, tmp_path: Path) -> None:
    names = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        names.append(adopt(store, write_tiny_model(tmp_path / str(seed) / "mine.gguf", seed=seed)))
    assert names[0].name == "mine:local"
    assert names[1].name == f"mine-{names[1].sha256[:8]}:local"


def test_one_file_adopted_by_many_threads_gets_one_name(store: Store, tiny_model: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        adopted = set(pool.map(lambda _: adopt(store, tiny_model), range(16)))
    assert len(adopted) == 1
    assert len(store.list()) == 1


def test_a_link_is_resolved_once_and_named_after_itself(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    link = tmp_path / "nice-name.gguf"
    link.symlink_to(tiny_model)
    adopted = adopt(store, link)
    assert adopted.name == "nice-name:local"
    assert adopted.path == str(tiny_model.resolve())


def fifo(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def unix_socket(path: Path) -> None:
    # Bound by a relative path, since a socket's path is short.
    previous = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(previous)


def empty(path: Path) -> None:
    path.touch()


def dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere.gguf")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_environment(path: Path) -> None:
    path.symlink_to("/proc/self/environ")


def no_model(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 no model at all")


def missing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    "make",
    [
        fifo,
        directory,
        unix_socket,
        empty,
        dangling_link,
        link_to_itself,
        link_to_device,
        link_to_environment,
        no_model,
        missing,
    ],
    ids=lambda make: make.__name__,
)
def test_what_is_no_model_file_is_refused(
    store: Store, private_home: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "x.gguf"
    make(path)
    with pytest.raises(InvalidModel):
        adopt(store, path)
    with pytest.raises(InvalidModel):
        store.inspect(str(path))
    assert visible_files(private_home) == []


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/random", "/proc/self/environ", "model.bin", "x.gguf/", "\0.gguf"])
def test_what_is_not_even_named_like_one_is_refused(store: Store, path: str) -> None:
    with pytest.raises(InvalidModel):
        adopt(store, Path(path))
