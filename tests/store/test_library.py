"""What is done with models that are here: verify, repair, copy, create, measure, prune, and removal while in use."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmserve.errors import Conflict, InvalidModel, InvalidRequest, ModelNotFound, PullFailed
from llmserve.store.adoption import adopt
from llmserve.store.catalog import Catalog
from llmserve.store.copies import copy, create
from llmserve.store.defaults import ChatDefaults
from llmserve.store.progress import ignore_progress
from llmserve.store.store import Store
from llmserve.store.usage import prune, usage
from llmserve.store.verification import verify, verify_each
from tests.fake_hub import FakeHub
from tests.store.conftest import leftovers, visible_files
from tests.store.tiny_safetensors import files
from tests.tiny_gguf import write_tiny_model

HUB_NAME = "hf:owner/model-GGUF"


def flip_silently(path: Path) -> None:
    """One bit, with size, time and inode as they were: what bit rot looks like."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)[0]
        file.seek(status.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def hub_store(private_home: Path, hub: FakeHub, tiny_bytes: bytes) -> Store:
    hub.commit("owner/model-GGUF", {"tiny.gguf": tiny_bytes})
    hub.commit("owner/model", files())
    return Store(private_home, catalog=Catalog())


# --- verify ---


def test_an_intact_model_is_found_intact(store: Store, downloads: list[str], tiny_bytes: bytes) -> None:
    store.pull("tiny")
    verdict = verify(store, "tiny")
    assert (verdict.name, verdict.problem, verdict.size_bytes) == ("tiny:1m", None, len(tiny_bytes))


def test_a_flipped_bit_that_nobody_sees_is_found_and_not_served(store: Store, downloads: list[str]) -> None:
    flip_silently(Path(store.pull("tiny").path))
    assert store.find("tiny")
    verdict = verify(store, "tiny")
    assert verdict.problem is not None
    assert "SHA-256" in verdict.problem
    with pytest.raises(InvalidModel, match="another SHA-256"):
        store.find("tiny")
    assert store.list() == ()
    assert [model.name for model in store.damaged()] == ["tiny:1m"]


def test_repair_fetches_the_same_again(store: Store, downloads: list[str], tiny_sha256: str) -> None:
    pulled = store.pull("tiny")
    flip_silently(Path(pulled.path))
    verdict = verify(store, "tiny", repair=True)
    assert verdict.repaired
    assert store.find("tiny").sha256 == tiny_sha256
    assert len(downloads) == 2
    assert verify(store, "tiny").problem is None


def test_repair_of_a_hub_model_keeps_its_commit(hub_store: Store, hub: FakeHub, tiny_bytes: bytes) -> None:
    pulled = hub_store.pull(HUB_NAME)
    hub.commit("owner/model-GGUF", {"tiny.gguf": b"something else"})
    flip_silently(Path(pulled.path).resolve())
    assert verify(hub_store, HUB_NAME, repair=True).repaired
    repaired = hub_store.find(HUB_NAME)
    assert repaired.source == pulled.source
    assert Path(repaired.path).read_bytes() == tiny_bytes


def test_a_model_that_cannot_be_repaired_does_not_keep_others_from_it(
    hub_store: Store, hub: FakeHub, private_home: Path, tmp_path: Path
) -> None:
    hub.commit("owner/gated", {"other.gguf": write_tiny_model(tmp_path / "other.gguf", seed=3).read_bytes()})
    names = [hub_store.pull(name).name for name in ("hf:owner/gated", HUB_NAME)]
    for name in names:
        flip_silently(Path(hub_store.find(name).path).resolve())
    unreadable = private_home / "manifests" / "broken" / "1b.json"
    unreadable.parent.mkdir()
    unreadable.write_text("{")
    hub.gated = {"owner/gated": "hf_granted"}
    gated, broken, repaired = verify_each(hub_store, [names[0], "broken:1b", names[1]], ignore_progress, repair=True)
    assert (gated.repaired, gated.problem) == (False, "has another SHA-256 than when it was installed")
    assert "gated" in (gated.failure or "")
    assert "damaged" in (broken.problem or "")
    assert repaired.repaired
    assert hub_store.find(HUB_NAME)


def test_a_touched_file_is_served_again_after_a_look(store: Store, downloads: list[str]) -> None:
    path = Path(store.pull("tiny").path)
    path.touch()
    with pytest.raises(InvalidModel):
        store.find("tiny")
    assert verify(store, "tiny").problem is None
    assert store.find("tiny").path == str(path)


def test_an_own_file_cannot_be_repaired(store: Store, tmp_path: Path, tiny_bytes: bytes) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny_bytes)
    model = adopt(store, path)
    flip_silently(path)
    with pytest.raises(Conflict, match="file of your own"):
        verify(store, model.name, repair=True)
    assert path.exists()
    with pytest.raises(InvalidModel):
        store.find(model.name)


def test_a_model_that_is_not_here_cannot_be_verified(store: Store) -> None:
    with pytest.raises(ModelNotFound):
        verify(store, "tiny")


# --- safetensors ---


def test_a_safetensors_model_is_pulled_as_a_directory(hub_store: Store, hub: FakeHub) -> None:
    model = hub_store.pull("owner/model")
    assert model.format == "safetensors"
    assert model.source.endswith(":safetensors")
    assert sorted(path.name for path in Path(model.path).iterdir()) == sorted(files())
    assert hub_store.inspect(model.name).architecture == "llama"
    assert model.size_bytes == sum(map(len, files().values()))


def test_code_and_pickles_are_not_even_downloaded(hub_store: Store, hub: FakeHub) -> None:
    unsafe = {"pytorch_model.bin": b"\x80\x04", "modeling_x.py": b"import os", "training_args.json": b"{}"}
    hub.commit("owner/model", files() | unsafe)
    hub_store.pull("owner/model")
    assert {request.path.rpartition("/")[2] for request in hub.downloads()} == set(files())


def test_a_model_that_wants_code_is_not_kept(hub_store: Store, hub: FakeHub, private_home: Path) -> None:
    hub.commit("owner/model", files(auto_map={"AutoModel": "modeling_x.X"}))
    with pytest.raises(InvalidModel, match="never run"):
        hub_store.pull("owner/model")
    assert visible_files(private_home) == []


def test_a_small_file_is_checked_by_gits_id(hub_store: Store, hub: FakeHub, private_home: Path) -> None:
    hub.small_files_without_lfs = True
    hub_store.pull("owner/model")
    hub_store.remove("owner/model")
    hub.corrupt = True
    with pytest.raises(PullFailed):
        hub_store.pull("owner/model")
    assert visible_files(private_home) == []


def test_a_repository_with_both_formats_is_asked_about(hub_store: Store, hub: FakeHub, tiny_bytes: bytes) -> None:
    hub.commit("owner/model", files() | {"m-Q4_0.gguf": tiny_bytes})
    with pytest.raises(InvalidRequest) as refused:
        hub_store.pull("owner/model")
    assert (
        refused.value.hint == "choose: `llmserve pull hf:owner/model:Q4_0`, `llmserve pull hf:owner/model:safetensors`"
    )


# --- copies ---


def test_a_copy_outlives_the_first_name(store: Store, downloads: list[str], tiny_sha256: str) -> None:
    store.pull("tiny")
    made = copy(store, "tiny", "mine:v1")
    assert made.sha256 == tiny_sha256
    assert store.remove("tiny") == 0
    assert store.find("mine:v1") == made
    assert store.remove("mine:v1") == made.size_bytes


@pytest.mark.parametrize("name", ["tiny:1m", "tiny", "hf:o/r", "../x", "Mine"])
def test_a_name_that_means_something_else_is_refused(store: Store, downloads: list[str], name: str) -> None:
    store.pull("tiny")
    with pytest.raises((Conflict, InvalidRequest)):
        copy(store, "tiny", name)


def test_a_copy_does_not_replace_another_model(store: Store, downloads: list[str], tiny_model: Path) -> None:
    store.pull("tiny")
    adopted = adopt(store, tiny_model)
    with pytest.raises(Conflict, match="already"):
        copy(store, "tiny", adopted.name)


def test_a_created_model_has_its_own_words(store: Store, downloads: list[str], tmp_path: Path) -> None:
    store.pull("tiny")
    file = tmp_path / "model.toml"
    file.write_text('base = "tiny"\nsystem = "Be brief."\ntemperature = 1\n')
    create(store, "brief:v1", file)
    assert store.defaults("brief:v1") == ChatDefaults("Be brief.", 1.0)
    assert store.defaults("tiny") == ChatDefaults()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("system = 'x'", "base"),
        ("base = 'tiny'\ntop = 1", "unknown key `top`"),
        ("base = 'tiny'\ntemplate = 'x'", "does not use `messages`"),
        ("base = 'tiny'\ntemperature = 9", "outside"),
        ("base = 'tiny'\nsystem = 1", "no text"),
        ("base = 7", "no text"),
        ("base =", "cannot read"),
    ],
)
def test_a_description_that_says_something_else_is_refused(
    store: Store, downloads: list[str], tmp_path: Path, text: str, said: str
) -> None:
    store.pull("tiny")
    file = tmp_path / "model.toml"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=said):
        create(store, "x:v1", file)
    assert len(store.list()) == 1


# --- du and prune ---


def test_shared_files_count_once(store: Store, downloads: list[str], tiny_bytes: bytes, tiny_model: Path) -> None:
    store.pull("tiny")
    copy(store, "tiny", "mine:v1")
    adopt(store, tiny_model)
    used = usage(store)
    assert used.total_bytes == 2 * len(tiny_bytes)
    assert {model.name: (model.shared_bytes, model.where) for model in used.models} == {
        "mine:v1": (len(tiny_bytes), "store"),
        "tiny:1m": (len(tiny_bytes), "store"),
        "tiny:local": (0, "own file"),
    }
    assert used.free_bytes > 0


def test_saved_prefixes_go_with_their_model(store: Store, downloads: list[str], private_home: Path) -> None:
    model = store.pull("tiny")
    copy(store, "tiny", "mine:v1")
    kept = private_home / "prefixes" / model.sha256 / "layout" / "text.prefix"
    foreign = private_home / "prefixes" / ("0" * 64) / "layout" / "text.prefix"
    for path in (kept, foreign):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 50)
    assert usage(store).prefix_bytes == 100
    assert [item.path for item in prune(store)] == [private_home / "prefixes" / ("0" * 64)]
    assert not foreign.exists()
    store.remove("mine:v1")
    assert kept.exists(), "the same model is still there under another name"
    freed = store.remove("tiny")
    assert not kept.exists()
    assert freed == model.size_bytes + 50


def test_prune_removes_what_no_model_uses(store: Store, downloads: list[str], private_home: Path) -> None:
    pulled = store.pull("tiny")
    orphan = private_home / "blobs" / f"sha256-{'0' * 64}"
    orphan.write_bytes(b"x" * 100)
    partial = private_home / "partial" / f"sha256-{'1' * 64}"
    partial.parent.mkdir()
    partial.write_bytes(b"x" * 10)
    assert usage(store).unused_bytes == 100
    assert [item.path for item in prune(store, dry_run=True)] == [orphan]
    assert orphan.exists()
    assert [item.path for item in prune(store)] == [orphan]
    assert not orphan.exists()
    assert partial.exists()
    assert [item.path for item in prune(store, partial=True)] == [partial]
    assert store.find("tiny") == pulled
    assert leftovers(private_home) == []


def test_prune_keeps_every_blob_while_a_manifest_cannot_be_read(
    store: Store, downloads: list[str], private_home: Path
) -> None:
    store.pull("tiny")
    (private_home / "manifests" / "tiny" / "1m.json").write_bytes(b"{")
    assert prune(store) == ()
    assert len(list((private_home / "blobs").iterdir())) == 1


def test_prune_keeps_every_blob_while_a_directory_of_manifests_cannot_be_read(
    store: Store, downloads: list[str], private_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled = store.pull("tiny")
    real = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("manifests/tiny"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert [(model.name, "cannot be read" in model.reason) for model in store.damaged()] == [("tiny:*", True)]
    assert prune(store) == ()
    assert Path(pulled.path).exists()


def test_an_empty_store_has_nothing_to_prune(store: Store, private_home: Path) -> None:
    assert prune(store) == ()
    assert not private_home.exists()


# --- in use ---


def test_a_model_in_use_is_not_removed(store: Store, downloads: list[str]) -> None:
    pulled = store.pull("tiny")
    code = "print(flush=True); input()"
    command = [sys.executable, "-c", code, "--name", pulled.name, "--model", pulled.path]
    copy(store, "tiny", "other:name")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        with pytest.raises(Conflict) as refused:
            store.remove("tiny")
        assert refused.value.status == 409
        assert str(worker.pid) in str(refused.value)
        assert store.find("tiny") == pulled
        # Another name of the same file is not what the worker serves.
        assert store.remove("other:name") == 0
        worker.communicate(b"\n")
    assert store.remove("tiny") == pulled.size_bytes
