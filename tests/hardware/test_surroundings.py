"""Facts about the system around the hardware."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmserve.hardware import surroundings


def test_a_directory_that_does_not_exist_yet_is_judged_by_where_it_would_be(tmp_path: Path) -> None:
    assert surroundings.is_writable(tmp_path / "not" / "there")
    assert surroundings.mode_of(tmp_path / "not") is None
    assert surroundings.free_bytes(tmp_path / "not") == pytest.approx(surroundings.free_bytes(tmp_path), rel=0.1)
    tmp_path.chmod(0o750)
    assert surroundings.mode_of(tmp_path) == 0o750


def test_who_listens() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert surroundings.listens("127.0.0.1", port)
    assert not surroundings.listens("127.0.0.1", port)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ((), False)),
        ({"HTTPS_PROXY": "http://p", "https_proxy": ""}, (("HTTPS_PROXY",), False)),
        ({"http_proxy": "http://p", "NO_PROXY": "example.org, localhost"}, (("http_proxy",), True)),
        ({"all_proxy": "socks5://p", "no_proxy": "*"}, (("all_proxy",), True)),
    ],
)
def test_proxies(environ: dict[str, str], expected: tuple[tuple[str, ...], bool]) -> None:
    assert surroundings.proxies(environ) == expected


def test_only_devices_that_exist_are_missed(tmp_path: Path) -> None:
    assert surroundings.forbidden_devices(tmp_path) == ()


def test_the_peak_of_a_process(tmp_path: Path) -> None:
    status = tmp_path / "proc/7/status"
    status.parent.mkdir(parents=True)
    status.write_text("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 100 kB\n")
    assert surroundings.peak_resident_bytes(7, tmp_path) == 2048 * 1024
    status.write_text("Name:\tx\n")
    assert surroundings.peak_resident_bytes(7, tmp_path) is None
    assert surroundings.peak_resident_bytes(8, tmp_path) is None


def test_the_peak_of_a_family_counts_what_is_shared_once(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for pid, peak, now, share in ((os.getpid(), 900, 700, 500), (child.pid, 300, 300, 100)):
        folder = tmp_path / f"proc/{pid}"
        folder.mkdir(parents=True)
        (folder / "status").write_text(f"Name:\tx\nVmHWM:\t {peak} kB\nVmRSS:\t {now} kB\n")
        (folder / "smaps_rollup").write_text(
            f"7f00-7fff ---p 00000000 00:00 0 [rollup]\nRss: {now} kB\nPss: {share} kB\n"
        )
    assert surroundings.peak_family_bytes(os.getpid(), tmp_path) == (500 + 200 + 100) * 1024
    child.communicate(b"\n")
    assert surroundings.peak_family_bytes(child.pid, tmp_path) is None
    assert surroundings.peak_family_bytes(os.getpid(), tmp_path / "nothing") is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells")
def test_this_process_has_a_peak() -> None:
    assert (surroundings.peak_resident_bytes(os.getpid()) or 0) > 1 << 20
    assert (surroundings.peak_family_bytes(os.getpid()) or 0) > 1 << 20


def test_memory_has_a_speed() -> None:
    assert surroundings.memory_speed() > 0


def test_busy_processors_are_counted_while_this_process_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: 100 * interval)
    monkeypatch.setattr("psutil.cpu_count", lambda: 8)
    assert surroundings.busy_processors(0.25) == 2.0
