from __future__ import annotations

import fcntl
import os
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from llmserve.llama.prefix_archive import PrefixArchive
from llmserve.llama.prefix_file import file_bytes

LAYOUT = "build 1, f16"
BUDGET = 1_000_000


def archive(folder: Path, layout: str = LAYOUT, budget: int = BUDGET, *, cuttable: bool = True) -> PrefixArchive:
    opened = PrefixArchive(folder / "prefixes" / "model", layout, budget, cuttable=cuttable)
    opened.open(longest=100_000)
    return opened


def state_of(tokens: list[int], size: int = 1000) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(sum(tokens)).integers(0, 256, size, dtype=np.uint8)


def store(into: PrefixArchive, tokens: list[int], size: int = 1000, since: float | None = None) -> bool:
    return into.store(tokens, state_of(tokens, size), time.time() if since is None else since, lambda: True)


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "prefixes").rglob("*") if path.is_file()]


def read(from_archive: PrefixArchive, tokens: list[int]) -> tuple[list[int], bytes] | None:
    found = from_archive.match(tokens)
    loaded = from_archive.load(found.entry) if found is not None else None
    return (loaded[0], loaded[1].tobytes()) if loaded is not None else None


def test_the_next_run_finds_the_longest_prefix_with_its_very_bytes(tmp_path: Path) -> None:
    first = archive(tmp_path)
    assert store(first, [1, 2, 3, 4])
    assert store(first, [1, 9])
    second = archive(tmp_path)
    found = second.match([1, 2, 3, 8, 8])
    assert found is not None
    assert (found.matched, found.length) == (3, 4)
    assert read(second, [1, 2, 3, 8, 8]) == ([1, 2, 3, 4], state_of([1, 2, 3, 4]).tobytes())
    assert second.match([7, 7]) is None


def test_the_last_token_of_a_prompt_is_left_to_be_computed(tmp_path: Path) -> None:
    kept = archive(tmp_path)
    store(kept, [1, 2, 3])
    found = kept.match([1, 2, 3])
    assert found is not None
    assert found.matched == 2


def test_where_memory_cannot_be_cut_only_whole_prefixes_count(tmp_path: Path) -> None:
    kept = archive(tmp_path, cuttable=False)
    store(kept, [1, 2, 3])
    store(kept, [1, 2, 3, 4, 5])
    assert kept.match([1, 2, 9]) is None
    found = kept.match([1, 2, 3, 4, 9])
    assert found is not None
    assert found.length == 3


def test_a_longer_prefix_takes_the_place_of_its_beginnings(tmp_path: Path) -> None:
    kept = archive(tmp_path)
    store(kept, [1, 2])
    store(kept, [1, 2, 3])
    assert kept.count == 1
    assert len(files(tmp_path)) == 1


def test_nobody_else_may_read_what_users_wrote(tmp_path: Path) -> None:
    store(archive(tmp_path), [1, 2, 3])
    (path,) = files(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folders = [path.parent, path.parent.parent, path.parent.parent.parent]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * 3


@pytest.mark.parametrize("level", ["prefixes", "prefixes/model"])
def test_a_directory_that_others_may_write_to_is_not_trusted(tmp_path: Path, level: str) -> None:
    archive(tmp_path)
    (tmp_path / level).chmod(0o777)
    with pytest.raises(PermissionError):
        archive(tmp_path)


# --- files that cannot be trusted ---


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def damaged_anywhere(path: Path) -> list[int]:
    """A byte of every part of the file, and some more."""
    size = path.stat().st_size
    return [0, 9, 20, 46, 50, 60, 90, 95, 110, 130, *range(140, size, size // 12), size - 1]


def test_a_flipped_bit_anywhere_makes_a_file_worthless(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store(archive(tmp_path), [1, 2, 3, 4])
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for offset in damaged_anywhere(path):
        caplog.clear()
        path.write_bytes(whole)
        flip(path, offset)
        kept = archive(tmp_path)
        assert read(kept, [1, 2, 3, 4, 5]) is None, offset
        assert files(tmp_path) == []
        assert "a saved prefix is removed" in caplog.text
        assert kept.match([1, 2, 3, 4, 5]) is None


@pytest.mark.parametrize("kept_bytes", [0, 5, 100, 140, 300, -1])
def test_a_file_that_was_cut_is_removed(tmp_path: Path, kept_bytes: int) -> None:
    store(archive(tmp_path), [1, 2, 3, 4])
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:kept_bytes])
    assert read(archive(tmp_path), [1, 2, 3, 4, 5]) is None
    assert files(tmp_path) == []


def test_a_file_cut_or_changed_after_the_start_is_found_out_when_it_is_read(tmp_path: Path) -> None:
    kept = archive(tmp_path)
    for tokens in ([1, 2], [3, 4]):
        store(kept, tokens)
    cut, changed = sorted(files(tmp_path))
    cut.write_bytes(cut.read_bytes()[:-1])
    flip(changed, changed.stat().st_size - 1)
    assert read(kept, [1, 2, 5]) is None
    assert read(kept, [3, 4, 5]) is None
    assert files(tmp_path) == []
    assert kept.count == 0


def test_a_file_of_another_build_is_removed_and_never_read(tmp_path: Path) -> None:
    store(archive(tmp_path, "build 2, f16"), [1, 2, 3])
    (foreign,) = files(tmp_path)
    own = archive(tmp_path)
    assert own.match([1, 2, 3, 4]) is None
    own_folder = next(folder for folder in foreign.parent.parent.iterdir() if folder != foreign.parent)
    foreign.rename(own_folder / foreign.name)
    assert archive(tmp_path).match([1, 2, 3, 4]) is None
    assert files(tmp_path) == []


def test_a_file_under_the_name_of_another_one_is_not_taken_for_it(tmp_path: Path) -> None:
    kept = archive(tmp_path)
    store(kept, [1, 2, 3])
    (right,) = files(tmp_path)
    store(kept, [4, 5, 6])
    wrong = next(path for path in files(tmp_path) if path != right)
    wrong.replace(right)
    assert read(kept, [1, 2, 3, 9]) is None


def test_a_file_that_others_may_write_to_is_not_trusted(tmp_path: Path) -> None:
    store(archive(tmp_path), [1, 2, 3])
    (path,) = files(tmp_path)
    path.chmod(0o666)
    assert archive(tmp_path).match([1, 2, 3, 4]) is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    store(archive(tmp_path), [1, 2, 3])
    (path,) = files(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert archive(tmp_path).match([1, 2, 3, 4]) is None
    assert elsewhere.exists()


def test_a_number_of_tokens_beyond_belief_takes_no_memory(tmp_path: Path) -> None:
    store(archive(tmp_path), [1, 2, 3])
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[44:52] = struct.pack("<Q", 1 << 60)
    path.write_bytes(data)
    assert archive(tmp_path).match([1, 2, 3, 4]) is None


def test_a_file_that_is_gone_is_as_none(tmp_path: Path) -> None:
    kept = archive(tmp_path)
    store(kept, [1, 2, 3])
    found = kept.match([1, 2, 3, 4])
    assert found is not None
    files(tmp_path)[0].unlink()
    assert kept.load(found.entry) is None
    assert kept.match([1, 2, 3, 4]) is None


def test_prefixes_longer_than_may_be_gone_on_from_stay_for_another_day(tmp_path: Path) -> None:
    store(archive(tmp_path), [1, 2, 3])
    short = PrefixArchive(tmp_path / "prefixes" / "model", LAYOUT, BUDGET)
    short.open(longest=2)
    assert short.match([1, 2, 3, 4]) is None
    assert archive(tmp_path).match([1, 2, 3, 4]) is not None


# --- the budget ---


def test_what_was_used_longest_ago_makes_way_whichever_model_it_is_of(tmp_path: Path) -> None:
    size = 1000
    budget = 3 * file_bytes(2, size) + 10
    one = archive(tmp_path, budget=budget)
    other = PrefixArchive(tmp_path / "prefixes" / "other", LAYOUT, budget)
    other.open(longest=100)
    store(other, [1, 1], size)
    store(one, [2, 2], size)
    store(one, [3, 3], size)
    assert other.use([1, 1, 5]) == 2
    assert store(one, [4, 4], size)
    assert one.match([2, 2, 5]) is None
    assert other.match([1, 1, 5]) is not None
    assert {len(path.read_bytes()) for path in files(tmp_path)} == {file_bytes(2, size)}
    assert len(files(tmp_path)) == 3


def test_what_was_used_in_this_round_is_not_displaced(tmp_path: Path) -> None:
    size = 1000
    kept = archive(tmp_path, budget=2 * file_bytes(2, size))
    since = time.time()
    assert store(kept, [1, 1], size, since)
    assert store(kept, [2, 2], size, since)
    assert not store(kept, [3, 3], size, since)
    assert kept.count == 2
    assert kept.match([3, 3, 1]) is None


def test_a_prefix_over_the_budget_is_not_written_and_displaces_nothing(tmp_path: Path) -> None:
    kept = archive(tmp_path, budget=5000)
    store(kept, [1, 1], 1000)
    assert not store(kept, [2, 2], 6000)
    assert kept.match([1, 1, 3]) is not None


def test_a_smaller_budget_is_kept_from_the_start_on(tmp_path: Path) -> None:
    first = archive(tmp_path)
    for number in range(5):
        store(first, [number, number])
    archive(tmp_path, budget=2 * file_bytes(2, 1000))
    assert len(files(tmp_path)) == 2


# --- writing that does not come to its end ---


def test_no_time_leaves_nothing(tmp_path: Path) -> None:
    kept = archive(tmp_path)
    assert not kept.store([1, 2], state_of([1, 2]), time.time(), lambda: False)
    assert files(tmp_path) == []
    assert kept.match([1, 2, 3]) is None


def test_a_disk_that_fails_costs_the_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    kept = archive(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        assert not store(kept, [1, 2])
    assert files(tmp_path) == []
    assert "Input/output error" in caplog.text
    assert store(kept, [1, 2])


KILLED_WHILE_WRITING = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from llmserve.llama.prefix_archive import PrefixArchive

archive = PrefixArchive(Path(sys.argv[1]), sys.argv[2], 1 << 40)
archive.open(1000)
pieces = 0
def may_go_on():
    global pieces
    pieces += 1
    if pieces == 5:  # three to be hashed, one written
        os.kill(os.getpid(), signal.SIGKILL)
    return True
archive.store([1, 2, 3], np.ones(10 << 20, dtype=np.uint8), time.time(), may_go_on)
"""


def test_a_kill_while_writing_leaves_nothing_visible(tmp_path: Path) -> None:
    folder = tmp_path / "prefixes" / "model"
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(folder), LAYOUT], timeout=60, check=False)
    assert killed.returncode == -9
    (left,) = files(tmp_path)
    assert left.stat().st_size > 0
    kept = archive(tmp_path)
    assert kept.match([1, 2, 3, 4]) is None
    assert files(tmp_path) == []


def test_what_another_worker_is_writing_is_left_alone(tmp_path: Path) -> None:
    store(archive(tmp_path), [1, 2, 3])
    (finished,) = files(tmp_path)
    writing = finished.with_name("x.unfinished")
    with writing.open("wb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        archive(tmp_path)
        assert writing.exists()
    archive(tmp_path)
    assert not writing.exists()
