"""Blobs: visible only complete and verified, whatever the source sends and whatever the disk does."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmserve.errors import InsufficientStorage, InvalidRequest, PullFailed
from llmserve.store import files
from llmserve.store.blobs import Blobs, Expected, Incoming, Opener
from llmserve.store.files import inside
from llmserve.store.locks import Locks
from llmserve.store.progress import PullProgress, ignore_progress
from llmserve.store.scratch import Scratch, scratch
from tests.store.conftest import leftovers, visible_files

CONTENT = b"GGUF" + bytes(range(256)) * 64
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("locks", "scratch"):
        (tmp_path / name).mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def blobs(home: Path) -> Blobs:
    return Blobs(home / "blobs", home / "scratch", Locks(home / "locks"))


def sending(*chunks: bytes, size_bytes: int | None = None) -> Opener:
    """An opener of content in these chunks, announced with its own size or another."""
    announced = sum(map(len, chunks)) if size_bytes is None else size_bytes

    @contextmanager
    def opened(area: Scratch) -> Iterator[Incoming]:
        yield Incoming(announced, chunks)

    return opened


def must_not_open(area: Scratch) -> Iterator[Incoming]:
    raise AssertionError("the source was asked although the blob is here")


def test_a_blob_is_published_privately_under_its_digest(blobs: Blobs, home: Path) -> None:
    seen: list[PullProgress] = []
    with blobs.obtained(Expected(len(CONTENT), SHA256), sending(CONTENT[:100], CONTENT[100:]), seen.append) as blob:
        assert blob.path == home / "blobs" / f"sha256-{SHA256}"
        assert blob.sha256 == SHA256
        assert blob.path.read_bytes() == CONTENT
    assert stat.S_IMODE(blob.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(blob.path.parent.stat().st_mode) == 0o700
    assert blob.identity == files.current_identity(blob.path)
    assert seen[-1] == PullProgress("verifying", len(CONTENT), len(CONTENT))
    assert leftovers(home) == []


def test_a_blob_without_a_known_digest_gets_the_one_it_has(blobs: Blobs) -> None:
    with blobs.obtained(Expected(), sending(CONTENT), ignore_progress) as blob:
        assert blob.sha256 == SHA256


def test_a_blob_that_is_here_is_verified_instead_of_fetched(blobs: Blobs) -> None:
    with blobs.obtained(Expected(None, SHA256), sending(CONTENT), ignore_progress) as first:
        pass
    with blobs.obtained(Expected(None, SHA256), must_not_open, ignore_progress) as second:  # type: ignore[arg-type]
        assert second == first


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT + b"x", bytes([CONTENT[0] ^ 1]) + CONTENT[1:]])
def test_a_damaged_blob_is_replaced(blobs: Blobs, damage: bytes) -> None:
    with blobs.obtained(Expected(None, SHA256), sending(CONTENT), ignore_progress) as blob:
        pass
    blob.path.write_bytes(damage)
    with blobs.obtained(Expected(None, SHA256), sending(CONTENT), ignore_progress) as again:
        assert again.path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("expected", "opener", "message"),
    [
        (Expected(len(CONTENT), "0" * 64), sending(CONTENT), "SHA-256"),
        (Expected(len(CONTENT) + 1, SHA256), sending(CONTENT), "bytes instead of"),
        (Expected(None, SHA256), sending(CONTENT, size_bytes=len(CONTENT) + 1), "did not send"),
        (Expected(None, SHA256), sending(CONTENT, b"more", size_bytes=len(CONTENT)), "did not send"),
        (Expected(None, None), sending(size_bytes=1), "did not send"),
    ],
    ids=["digest", "size", "short", "long", "nothing"],
)
def test_content_that_is_not_what_was_expected_is_not_kept(
    blobs: Blobs, home: Path, expected: Expected, opener: Opener, message: str
) -> None:
    with pytest.raises(PullFailed, match=message), blobs.obtained(expected, opener, ignore_progress):
        pytest.fail("it was published")
    assert visible_files(home) == []
    assert leftovers(home) == []


def test_an_error_of_the_source_leaves_nothing(blobs: Blobs, home: Path) -> None:
    def breaking() -> Iterator[bytes]:
        yield CONTENT[:10]
        raise PullFailed("the line went dead")

    @contextmanager
    def opened(area: Scratch) -> Iterator[Incoming]:
        yield Incoming(len(CONTENT), breaking())

    with pytest.raises(PullFailed, match="went dead"), blobs.obtained(Expected(), opened, ignore_progress):
        pytest.fail("it was published")
    assert visible_files(home) == []
    assert leftovers(home) == []


def test_both_numbers_are_named_where_the_disk_is_too_full(
    blobs: Blobs, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(home)
    small = os.statvfs_result((*real[:1], 4096, *real[2:4], 1000, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _path: small)
    with pytest.raises(InsufficientStorage) as refused, blobs.obtained(Expected(), sending(CONTENT), ignore_progress):
        pytest.fail("it was published")
    assert refused.value.status == 507
    assert "134.2 MB" in str(refused.value)
    assert "4.1 MB are free" in str(refused.value)
    assert visible_files(home) == []


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, InsufficientStorage), (errno.EDQUOT, InsufficientStorage), (errno.EIO, PullFailed)],
)
def test_a_failed_write_is_not_a_success(
    blobs: Blobs, home: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, error: type[Exception]
) -> None:
    def fails(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(error), blobs.obtained(Expected(), sending(CONTENT), ignore_progress):
        pytest.fail("it was published")
    assert visible_files(home) == []
    assert leftovers(home) == []


@pytest.mark.parametrize("digest", ["a" * 63, "a" * 65, "A" * 64, "g" * 64, "../" + "a" * 61, "", "a" * 64 + "\n"])
def test_only_64_lower_case_digits_are_a_digest(blobs: Blobs, digest: str) -> None:
    with pytest.raises(InvalidRequest):
        blobs.path(digest)


def test_a_sibling_with_the_roots_prefix_is_outside(tmp_path: Path) -> None:
    root = tmp_path / "models"
    assert inside(root, "family", "tag.json") == root / "family" / "tag.json"
    for parts in (("..", "models-evil", "x"), ("../models-evil",), ("/etc/passwd",), (".",), ("..",), ("a", "..")):
        with pytest.raises(InvalidRequest):
            inside(root, *parts)


def test_removing_frees_the_size_and_a_missing_blob_frees_nothing(blobs: Blobs) -> None:
    with blobs.obtained(Expected(), sending(CONTENT), ignore_progress):
        pass
    assert blobs.remove(SHA256) == len(CONTENT)
    assert blobs.remove(SHA256) == 0


def test_a_running_pulls_directory_survives_the_next_ones_clean_up(tmp_path: Path) -> None:
    abandoned = tmp_path / "pull-abandoned"
    abandoned.mkdir()
    (abandoned / "blob").write_bytes(b"half")
    with scratch(tmp_path) as first, scratch(tmp_path) as second:
        assert not abandoned.exists()
        assert first.path.is_dir()
        assert second.path.is_dir()
        assert first.path != second.path
    assert list(tmp_path.glob("pull-*")) == []
