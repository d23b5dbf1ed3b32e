"""A journal whose writer dies at any moment: what was there is there, and each line has one answer."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest

from llmserve.batches.answers import Usage
from llmserve.batches.journal import Journal, WrongJournal
from llmserve.errors import Conflict
from tests.batches.makers import USAGE, answer


def ids(journal: Journal, *, ok: bool = True) -> list[str]:
    """The ids of the lines of the output or the error file."""
    target = io.BytesIO()
    count = journal.copy(target.write, ok=ok)
    found = [json.loads(text)["custom_id"] for text in target.getvalue().splitlines()]
    assert len(found) == count
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_answers_come_out_in_the_order_of_the_input(path: Path) -> None:
    journal = Journal(path, "key")
    journal.add([answer(3), answer(1)])
    journal.add([answer(2, status=400), answer(10)])
    assert ids(journal) == ["id 1", "id 3", "id 10"]
    assert ids(journal, ok=False) == ["id 2"]
    assert (len(journal), journal.completed, journal.failed) == (4, 3, 1)
    assert journal.usage == USAGE + USAGE + USAGE
    journal.close()


def test_a_line_has_one_answer(path: Path) -> None:
    journal = Journal(path, "key")
    first = answer(1)
    journal.add([first])
    journal.add([answer(1), answer(2), answer(2)])
    journal.close()
    again = Journal(path, "key")
    size = path.stat().st_size
    again.add([answer(1)])
    assert path.stat().st_size == size
    assert ids(again) == ["id 1", "id 2"]
    assert again.completed == 2
    target = io.BytesIO()
    again.copy(target.write, ok=True)
    assert target.getvalue().splitlines()[0] == first.output
    again.close()


def test_whatever_was_written_last_the_rest_is_sound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path, "key")
    sizes = [path.stat().st_size]
    for number in (2, 1, 3):
        journal.add([answer(number)])
        sizes.append(path.stat().st_size)
    journal.close()
    whole = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: None)  # The disk's patience, a thousand times.
    for cut in range(len(whole) + 1):
        # A crash of the machine may leave zeros where the rest was to be.
        for rest in (b"", b"\0" * 10)[: 1 + (cut % 5 == 0)]:
            path.write_bytes(whole[:cut] + rest)
            if cut < sizes[0] and rest:
                continue  # With a head that is none it could be anybody's.
            again = Journal(path, "key")
            assert len(again) == sum(cut >= size for size in sizes[1:])
            again.add([answer(number) for number in (1, 2, 3)])
            assert ids(again) == ["id 1", "id 2", "id 3"]
            again.close()


def test_a_record_that_was_damaged_is_answered_again(path: Path) -> None:
    journal = Journal(path, "key")
    journal.add([answer(1)])
    size = path.stat().st_size
    journal.add([answer(2), answer(3)])
    journal.close()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"answer 2", b"answer 9", 1))
    again = Journal(path, "key")
    assert (ids(again), path.stat().st_size) == (["id 1"], size)
    again.close()


@pytest.mark.parametrize("content", [b"llmserve-batch 1 other\n", b"somebody's novel", b"a\nb\n"])
def test_what_belongs_to_others_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(WrongJournal):
        Journal(path, "key")
    assert path.read_bytes() == content


def test_two_cannot_write_it(path: Path) -> None:
    journal = Journal(path, "key")
    with pytest.raises(Conflict):
        Journal(path, "key")
    journal.close()
    Journal(path, "key").close()


def test_what_the_disk_did_not_take_does_not_count(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path, "key")
    journal.add([answer(1)])
    with monkeypatch.context() as failing:

        def full(descriptor: int, content: bytes, offset: int) -> int:
            os.lseek(descriptor, offset, os.SEEK_SET)
            os.write(descriptor, bytes(content)[:5])
            raise OSError(errno.ENOSPC, "no room")

        failing.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="no room"):
            journal.add([answer(2)])
    assert (len(journal), ids(journal)) == (1, ["id 1"])
    journal.add([answer(3)])
    journal.close()
    again = Journal(path, "key")
    assert ids(again) == ["id 1", "id 3"]
    assert again.usage == USAGE + USAGE
    again.close()


def test_it_is_on_the_disk_before_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path, "key")
    seen: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append((len(journal), b"answer 1" in path.read_bytes())))
    journal.add([answer(1)])
    assert seen == [(0, True)]
    journal.close()


def test_who_comes_too_late_writes_nowhere(path: Path) -> None:
    journal = Journal(path, "key")
    journal.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        journal.add([answer(1)])
    assert journal.usage == Usage()
