"""Configuration files of other programs: replaced whole or not at all, with what was in them kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from llmserve.cli import config_file
from llmserve.cli.config_file import rewrite
from llmserve.errors import Conflict, InsufficientStorage, InvalidRequest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.json"
    path.write_text("old")
    path.chmod(0o644)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def others(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir() if path != file)


def test_the_old_text_is_kept_beside_it(file: Path) -> None:
    first = rewrite(file, lambda text: f"{text} one", private=False)
    second = rewrite(file, lambda text: f"{text} two", private=False)
    assert (first.path, first.backup, first.changed) == (file, file.with_name("settings.json.bak"), True)
    assert second.backup == file.with_name("settings.json.bak1")
    assert [path.read_text() for path in (file, first.backup, second.backup)] == ["old one two", "old", "old one"]
    assert (mode(file), mode(first.backup)) == (0o644, 0o600)
    assert others(file) == ["settings.json.bak", "settings.json.bak1"]


@pytest.mark.parametrize("edit", ["old", "with a key"])
def test_a_file_with_a_key_is_its_owners_alone(file: Path, edit: str) -> None:
    rewrite(file, lambda _: edit, private=True)
    assert mode(file) == 0o600


def test_a_file_that_says_so_already_is_not_touched(file: Path) -> None:
    before = file.stat()
    assert not rewrite(file, lambda text: text, private=False).changed
    assert (file.stat().st_ino, file.stat().st_mtime_ns, others(file)) == (before.st_ino, before.st_mtime_ns, [])


def test_a_new_file_and_its_directories_are_private(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "config.yaml"
    assert rewrite(file, lambda text: f"[{text}]", private=False).backup is None
    assert file.read_text() == "[]"
    assert (mode(file), mode(file.parent), others(file)) == (0o600, 0o700, [])


def test_a_link_stays_one(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert rewrite(link, lambda _: "new", private=False).path == file
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_a_change_by_somebody_else_is_not_lost(file: Path) -> None:
    def edit(text: str) -> str:
        file.write_text("theirs")
        return "ours"

    with pytest.raises(Conflict):
        rewrite(file, edit, private=False)
    assert (file.read_text(), others(file)) == ("theirs", [])


@pytest.mark.parametrize(("written", "left"), [(0, []), (1, []), (2, ["settings.json.bak"])])
def test_a_full_disk_leaves_the_old_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, written: int, left: list[str]
) -> None:
    """The disk is full for the new file, for the old one's, or for the name of the new one."""
    room = iter(range(written))

    def no_room() -> None:
        if next(room, None) is None:
            raise OSError(28, "No space left on device")

    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content[:1])
        no_room()
        path.write_bytes(content)

    monkeypatch.setattr(config_file, "write_durably", write)
    monkeypatch.setattr(config_file, "rename_durably", lambda *_: no_room())
    with pytest.raises(InsufficientStorage):
        rewrite(file, lambda _: "new", private=False)
    assert file.read_text() == "old"
    assert others(file) == left


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b" " * (1024 * 1024 + 1))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("", "pipe", "large", "bytes", "file/below", "loop"):
        with pytest.raises(InvalidRequest):
            rewrite(tmp_path / name, lambda _: "new", private=False)


def test_a_refusal_names_the_file(file: Path) -> None:
    def refuse(_: str) -> str:
        raise InvalidRequest("it is not JSON")

    with pytest.raises(InvalidRequest, match=r"settings\.json: it is not JSON"):
        rewrite(file, refuse, private=False)
